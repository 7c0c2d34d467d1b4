from pathlib import Path

import pytest

from controlmill.cli.annotator_files import anchored
from controlmill.cli.settings import assemble
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


@pytest.mark.parametrize("values", [{}, {"annotators": 3}, {"annotators": [3], "annotator_options": {"canny": {}}}])
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
