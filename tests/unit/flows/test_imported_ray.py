"""What Ray reads from the environment is set in time, also where it is imported before the options are known."""

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, os
import ray
from ray._private import ray_constants, services
from ray._raylet import AuthenticationTokenLoader
from controlmill.config import EngineOptions
from flows.engines import ray_environment

for port in (None, 9109):
    ray_environment(EngineOptions(metrics_port=port))
    metrics = os.environ["RAY_enable_metrics_collection"]
    token = AuthenticationTokenLoader.instance().has_token()
    print(json.dumps([services.get_node_ip_address(), token, metrics]))
"""


@pytest.mark.parametrize("metrics_before", [None, "0"])
def test_an_imported_ray_keeps_to_loopback_and_has_a_token(metrics_before: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    if metrics_before is not None:
        environment["RAY_enable_metrics_collection"] = metrics_before
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        ["127.0.0.1", True, "0"],
        ["127.0.0.1", True, "1"],
    ]
