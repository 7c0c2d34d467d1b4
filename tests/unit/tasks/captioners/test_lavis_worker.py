"""What can be told of the LAVIS worker without LAVIS; tests/integration/test_lavis.py runs it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]


def test_it_is_importable_where_nothing_is_installed() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tasks.captioners.lavis_worker import LavisWorker\n"
        "ours = {name for name in sys.modules if name.partition('.')[0] in ('tasks', 'controlmill', 'storage')}\n"
        "print(*sorted(ours))"
    )
    # -I -S: no site-packages, no environment variables
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "tasks", "tasks.captioners", "tasks.captioners.convert", "tasks.captioners.lavis_worker",
        "tasks.captioners.seeds",
    ]  # fmt: skip
