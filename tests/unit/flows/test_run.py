import os
import subprocess
import sys

NO_RAY = """
import threading
from controlmill.config import EngineOptions
from controlmill.errors import EngineStartError
from flows.run import engines

try:
    with engines(EngineOptions(ray_address="127.0.0.1:1")):
        raise AssertionError("there is no Ray")
except EngineStartError:
    print([thread.name for thread in threading.enumerate() if thread.name.startswith("import ")])
"""


def test_no_import_is_under_way_where_ray_did_not_start() -> None:
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:1/api"}
    finished = subprocess.run(
        [sys.executable, "-c", NO_RAY], capture_output=True, text=True, check=False, env=environment, timeout=100
    )
    assert (finished.returncode, finished.stdout) == (0, "[]\n"), finished.stderr
