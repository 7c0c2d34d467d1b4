import os
from pathlib import Path

import pytest

from controlmill.cli.annotator_files import anchored
from controlmill.cli.settings import ConfigCommand, assemble
from controlmill.config import AnnotateConfig
from controlmill.errors import ConfigError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def test_files_are_named_in_full_and_other_annotators_are_left_alone(here: Path) -> None:
    found = anchored({"annotators": ["canny", "./mine.py:Mine", "../other.py:Other", "/abs/a.py:A"], "seed": 3})
    assert found == {
        "annotators": ["canny", f"{here}/here/mine.py:Mine", f"{here}/other.py:Other", "/abs/a.py:A"],
        "seed": 3,
    }


def test_the_home_folder_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/her")
    assert anchored({"annotators": ["~/mine.py:Mine"]}) == {"annotators": ["/home/her/mine.py:Mine"]}


def test_options_are_given_by_class_or_path(here: Path) -> None:
    name = f"{here}/here/mine.py:Mine"
    for key in ("Mine", "./mine.py:Mine", "mine.py:Mine", name):
        found = anchored({"annotators": ["./mine.py:Mine"], "annotator_options": {key: {"top": 3}}})
        assert found["annotator_options"] == {name: {"top": 3}}


def test_two_classes_of_one_name_cannot_be_told_apart() -> None:
    values = {"annotators": ["a.py:Mine", "b.py:Mine"], "annotator_options": {"Mine": {}}}
    with pytest.raises(ConfigError, match=r"^annotator_options\.Mine: there is a Mine in each of .*a\.py:Mine, "):
        anchored(values)


def test_weights_are_named_in_full(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/her")
    options = {
        "hed": {"weights": "./w", "safe": True},
        "mlsd": {"weights": "w.pth"},
        "midas": {"weights": "~/w"},
        "lineart": {"weights": "/abs/w"},
        "normal_bae": {"weights": None},
    }
    found = {
        "hed": {"weights": f"{here}/here/w", "safe": True},
        "mlsd": {"weights": f"{here}/here/w.pth"},
        "midas": {"weights": "/home/her/w"},
        "lineart": {"weights": "/abs/w"},
        "normal_bae": {"weights": None},
    }
    values = {"annotators": list(options), "annotator_options": options}
    assert anchored(values)["annotator_options"] == found
    assert anchored({"build": values})["build"]["annotator_options"] == found


def test_weights_of_an_annotator_in_a_file_are_named_in_full(here: Path) -> None:
    found = anchored({"annotators": ["./mine.py:Mine"], "annotator_options": {"Mine": {"weights": "../w"}}})
    assert found["annotator_options"] == {f"{here}/here/mine.py:Mine": {"weights": f"{here}/w"}}


def test_folders_of_weights_in_the_environment_are_named_in_full(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers inherit the variable and work in other folders."""
    monkeypatch.setenv("HOME", "/home/her")
    monkeypatch.setenv("CONTROLMILL_WEIGHTS", f"w{os.pathsep}~/w{os.pathsep}/abs")
    seen: list[str] = []
    command = ConfigCommand(
        "command", AnnotateConfig, lambda *_: seen.append(os.environ["CONTROLMILL_WEIGHTS"]), text="", dataset=True
    )
    command.main(["DATASET", "--annotators", "canny"], standalone_mode=False)
    assert seen == [os.pathsep.join([f"{here}/here/w", "/home/her/w", "/abs"])]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"annotators": 3},
        {"annotators": [3], "annotator_options": {"canny": {}}},
        {"annotators": ["hed"], "annotator_options": {"hed": {"weights": 3}}},
        {"annotators": ["hed"], "annotator_options": {"hed": 3}},
        {"annotators": ["hed"], "annotator_options": 3},
    ],
)
def test_what_is_wrong_is_left_to_the_model(values: dict[str, object]) -> None:
    assert anchored(values) == values


def test_from_the_command_line(here: Path) -> None:
    config = assemble(
        AnnotateConfig,
        ["DATASET"],
        {"annotators": ("./mine.py:Mine,canny",), "annotator_options": ("Mine.top=3",)},
        positional="output_folder",
    )
    name = f"{here}/here/mine.py:Mine"
    assert config.annotators == (name, "canny")
    assert config.annotator_options == {name: {"top": 3}}
