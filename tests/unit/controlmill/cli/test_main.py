"""The command line as a person meets it: help, exit codes, one line for a mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from controlmill import __version__
from controlmill.cli import main as entry
from controlmill.errors import InterruptedRunError, SourceMissingError

HEAVY = ("ray", "prefect", "cv2", "pyarrow", "numpy", "PIL", "aiohttp", "torch", "fsspec")


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "controlmill.cli.main", *words], capture_output=True, text=True, check=False, env=env
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["build", "--help"],
        ["annotate", "--help"],
        ["retry", "--help"],
        ["inspect", "--help"],
        ["build", "--url-list", "u", "--output-folder", "o", "--image-size", "3"],
    ],
)
def test_help_and_refusals_import_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from controlmill.cli.main import main; main(sys.argv[1:]); "
        "print('LOADED', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("LOADED ")[2].split())
    assert "controlmill" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_help_of_the_group_imports_no_command() -> None:
    code = (
        "import sys; from controlmill.cli.main import main; main(['--help']); "
        "print('LOADED', *(name for name in sys.modules if name.startswith(('controlmill', 'pydantic', 'rich'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.rpartition("LOADED ")[2].split())
    assert loaded == {"controlmill", "controlmill.cli", "controlmill.cli.main", "controlmill.errors"}


def test_every_command_is_listed_and_is_there() -> None:
    text = run("--help").stdout
    for name, summary in entry.COMMANDS.items():
        assert f"  {name} " in text
        assert summary.split()[0] in text
        command = entry.group.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert command.name == name


def test_version() -> None:
    assert run("--version").stdout == f"controlmill {__version__}\n"


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["build", "--image_size", "512"], 2, "error: output_folder: Field required"),
        (["build", "--qqqq"], 2, "error: No such option '--qqqq'. See controlmill build --help."),
        (["build", "--image-size"], 2, "error: Option '--image-size' requires an argument. See controlmill"),
        (["bild"], 2, "error: No such command 'bild'."),
        (["annotate", "DATA"], 2, "error: annotators: name at least one"),
        (["retry", "DATA", "--reason", "timeot"], 2, "error: reason.0: "),
        (["inspect", "/nowhere/at/all"], 4, "error: "),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(words: list[str], code: int, line: str) -> None:
    done = run(*words)
    assert done.returncode == code
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["build", "annotate", "retry", "inspect"])
def test_a_command_without_words_shows_its_help(command: str) -> None:
    done = run(command)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Usage: controlmill {command}")


def test_traceback_on_request() -> None:
    words = ["build", "--url-list", "u", "--output-folder", "o", "--image-size", "3"]
    assert "Traceback" not in run(*words).stderr
    assert "Traceback" in run(*words, "--traceback").stderr
    assert "Traceback" in run(*words, env={"CONTROLMILL_TRACEBACK": "1"}).stderr
    assert "Traceback" not in run(*words, env={"CONTROLMILL_TRACEBACK": "0"}).stderr


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (SourceMissingError("urls.txt: there is no such file"), 3, "error: urls.txt: there is no such file\n"),
        (InterruptedRunError("stopped; run it again"), 130, "error: stopped; run it again\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_errors_of_a_run(
    raised: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("controlmill.cli.annotate.running", fail)
    assert entry.main(["annotate", "DATA", "--annotators", "canny"]) == code
    assert capsys.readouterr().err.lstrip("\n") == said


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("controlmill.cli.annotate.running", fail)
    with pytest.raises(ZeroDivisionError):
        entry.main(["annotate", "DATA", "--annotators", "canny"])


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    errors = tmp_path / "stderr"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "controlmill.cli.main", "build", "--help"], stdout=subprocess.PIPE, stderr=stderr
        )
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=30) == 1
    assert errors.read_bytes() == b""
