"""Nothing of a run listens where another machine could reach it, whatever the addresses of this one are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from controlmill.testing.tiny_sd import write_tiny_sd

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
ELSEWHERE = "10.9.8.7"
NETWORK = f"ip link set lo up && ip address add {ELSEWHERE}/32 dev lo && ip route add default dev lo src {ELSEWHERE}"
# nobody answers for other names there; asking for them would take ten seconds each
NAME = 'hostname elsewhere && mount --bind "$0" /etc/hosts && mount --bind /dev/null /etc/resolv.conf'
APART = ["unshare", "--net", "--uts", "--mount", "sh", "-c", f'{NETWORK} && {NAME} && exec "$@"']
"""Runs a command where this machine has an address that is not loopback, to which its name leads."""
# As Prefect's worker carries out a deployment: the flow is loaded, with all that it imports, before it has its options.
SCRIPT = """
import json, sys, threading
import psutil
from flows.engines import prefect_server

listened, ended = set(), threading.Event()


def watch():
    # whatever listens in this network namespace is of the run
    while not ended.is_set():
        listened.update(at.laddr.ip for at in psutil.net_connections("tcp") if at.status == psutil.CONN_LISTEN)
        ended.wait(0.1)


watcher = threading.Thread(target=watch)
watcher.start()
try:
    with prefect_server() as server:
        server.wait()
        from prefect.flows import load_flow_from_entrypoint

        for entrypoint, options in json.loads(sys.argv[1]).items():
            load_flow_from_entrypoint(entrypoint)(options)
finally:
    ended.set()
    watcher.join()
print(json.dumps(sorted(listened)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("listening")
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{ELSEWHERE} elsewhere\n")
    if sys.platform != "linux" or subprocess.run([*APART, folder / "hosts", "true"], check=False).returncode:
        pytest.skip("needs the right to make namespaces")
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(folder / "pictures" / f"{number}.png")
    return folder


def test_nothing_of_deployments_listens_elsewhere(folder: Path) -> None:
    build = {
        "image_folder": str(folder / "pictures"), "output_folder": str(folder / "dataset"), "annotators": ["canny"],
        "image_size": 64, "resize_mode": "center_crop",
    }  # fmt: skip
    train = {
        "train_data_dir": str(folder / "dataset"), "condition": "canny", "keep_empty_hints": True, "resolution": 64,
        "pretrained_model_name_or_path": str(write_tiny_sd(folder / "base", unet_widths=(16, 16, 16, 16))),
        "train_batch_size": 1, "max_train_steps": 2, "num_probe_rows": 4, "report_to": [], "preflight": False,
        "num_workers": 2, "output_dir": str(folder / "run"),
    }  # fmt: skip
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PREFECT_"))},
        "HOME": str(folder), "XDG_DATA_HOME": str(folder / "data"), "RAY_raylet_start_wait_time_s": "200",
    }  # fmt: skip
    flows = {"flows.build_dataset.build_dataset": build, "flows.train_controlnet.train_controlnet": train}
    done = subprocess.run(
        [*APART, folder / "hosts", sys.executable, "-c", SCRIPT, json.dumps(flows)],
        env=environment, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert set(json.loads(done.stdout.splitlines()[-1])) <= LOOPBACK
    # the token of a run's own Ray is its own: Ray would write one into the home
    assert not (folder / ".ray").exists()
