"""`controlmill submit` and `jobs` before anything is sent: the command's own options, and one line for a mistake."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from controlmill.cli.main import main
from controlmill.cli.submit import COMMANDS, submitting

BUILD = ["submit", "build", "--output-folder", "s3://bucket/set", "--url-list", "s3://bucket/urls.txt"]


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def test_every_command_takes_its_own_options_and_those_of_a_job() -> None:
    for name in COMMANDS:
        names = {parameter.name for parameter in submitting(name).params}
        assert {"address", "env", "with_code", "no_wait", "submission_id", "ray_address"} <= names
        original = __import__(f"controlmill.cli.{name}", fromlist=["command"]).command
        assert "submission_id" not in {parameter.name for parameter in original.params}


def test_help_imports_no_engine() -> None:
    code = (
        "import sys; from controlmill.cli.main import main; main(sys.argv[1:]); "
        "print('LOADED', *{name.partition('.')[0] for name in sys.modules})"
    )
    words = [sys.executable, "-c", code, "submit", "build", "--help"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "--submission-id" in said
    assert "--image-size" in said
    assert {"ray", "prefect", "torch"}.isdisjoint(said.rpartition("LOADED ")[2].split())


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["submit", "inspect"], 2, "No such command 'inspect'"),
        ([*BUILD, "--image-size", "3"], 2, "image_size: "),
        (BUILD, 2, "address: give the one of the cluster's dashboard"),
        ([*BUILD, "--address", "http://127.0.0.1:1", "--env", "KEY=secret"], 2, "env: give only the name, --env KEY;"),
        ([*BUILD, "--address", "http://127.0.0.1:1", "--ray-address", "auto"], 2, "ray_address: leave it out"),
        ([*BUILD, "--address", "http://127.0.0.1:1", "--annotators", "cany"], 2, "cany"),
        (["submit", "annotate", "s3://bucket/set"], 2, "annotators: name at least one"),
        (["jobs", "list"], 2, "address: give the one of the cluster's dashboard"),
        (["jobs", "stop", "id", "--address", "ray://head:10001"], 2, "address: ray://head:10001 is not that of"),
    ],
)
def test_a_mistake_is_one_line_before_anybody_is_asked(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert "secret" not in line


def test_nobody_at_the_address_is_told_after_the_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    words = ["submit", "build", "--output-folder", str(tmp_path), "--url-list", "s3://bucket/urls.txt"]
    assert main([*words, "--address", address]) == 5
    note, error = capsys.readouterr().err.splitlines()
    assert note.startswith("note: has to be the same place on every node")
    assert error == f"error: no Ray dashboard answers at http://{address}: Connection refused"
