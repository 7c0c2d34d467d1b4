"""`controlmill doctor` on engines that are there, and on addresses where nobody is."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

from controlmill.testing.command import Finished, run


def findings(finished: Finished) -> dict[str, dict[str, str]]:
    return {one["what"]: one for one in json.loads(finished.output)}


def nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_engines_that_are_configured_are_asked(cluster: Callable[..., Finished], tmp_path: Path) -> None:
    finished = cluster("doctor", "--json", "--timeout", 300, "--output-folder", tmp_path / "dataset")
    found = findings(finished)
    assert finished.exit_code == 0, finished.output + finished.errors
    assert "a task ran" in found["Ray"]["found"]
    assert "server at http://127.0.0.1:" in found["Prefect"]["found"]
    assert found[f"storage {tmp_path / 'dataset'}"]["verdict"] in ("good", "note")


def test_nobody_at_the_addresses(tmp_path: Path) -> None:
    environment = {"PREFECT_API_URL": f"http://{nobody()}/api", "PREFECT_HOME": str(tmp_path)}
    finished = run("doctor", "--json", "--ray-address", nobody(), environment=environment, folder=tmp_path)
    found = findings(finished)
    assert finished.exit_code == 1
    assert found["Ray"]["verdict"] == found["Prefect"]["verdict"] == "problem"
    assert "unset PREFECT_API_URL" in found["Prefect"]["remedy"]
    assert "Traceback" not in finished.errors


def test_whoever_never_answers_is_a_problem_in_time(tmp_path: Path) -> None:
    # connections are taken by the system, and nobody ever reads from them
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {
            "PREFECT_API_URL": f"{url}/api", "PREFECT_HOME": str(tmp_path), "FSSPEC_S3_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any",
        }  # fmt: skip
        words = ["doctor", "--json", "--timeout", 8, "--output-folder", "s3://bucket/set"]
        started_s = time.monotonic()
        finished = run(*words, "--ray-address", url.removeprefix("http://"), environment=environment, folder=tmp_path)
    # S3's client alone would try for minutes
    assert time.monotonic() - started_s < 90
    found = findings(finished)
    assert finished.exit_code == 1
    assert {found[what]["verdict"] for what in ("Ray", "Prefect", "storage")} == {"problem"}
    assert found["storage"]["found"] == "no answer within 8 s"
    assert "Traceback" not in finished.errors
