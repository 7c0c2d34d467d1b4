import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from controlmill.errors import ConfigError
from controlmill.testing.pictures import photo
from tasks.annotators.base import Annotation, Annotator
from tasks.annotators.registry import create

OWN = """
from dataclasses import dataclass

import numpy as np

from controlmill.config.base import Options
from tasks.annotators.base import Annotation, Annotator

TOP = 255

class InvertOptions(Options):
    top: int = TOP

class Invert(Annotator):
    name = "invert"
    version = "1"
    options_model = InvertOptions
    channels = 3

    def annotate(self, images, keys):
        return [Annotation((self.options.top - image).astype(np.uint8)) for image in images]
"""


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_its_source_is_part_of_its_recipe(own_file: Path) -> None:
    before = create(f"{own_file}:Invert", {})
    assert before.recipe().keys() == {"top", "seed", "source_sha256"}
    assert create(f"{own_file}:Invert", {}).recipe() == before.recipe()
    # the same size within the same second, as an editor leaves it: a cache of compiled files would not see it
    own_file.write_text(OWN.replace("255", "254"))
    after = create(f"{own_file}:Invert", {})
    assert after.recipe()["source_sha256"] != before.recipe()["source_sha256"]
    assert (after.recipe()["top"], before.recipe()["top"]) == (254, 255)


def test_its_place_is_not_part_of_its_recipe(own_file: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    other = own_file.rename(tmp_path / "elsewhere" / "other.py")
    moved = create(f"{other}:Invert", {}).recipe()
    other.rename(own_file)
    assert create(f"{own_file}:Invert", {}).recipe() == moved


def test_nothing_is_left_beside_it(own_file: Path) -> None:
    create(f"{own_file}:Invert", {})
    assert list(own_file.parent.iterdir()) == [own_file]


def test_two_files_of_one_name_are_two(own_file: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    second = tmp_path / "b" / "own.py"
    second.write_text(OWN.replace('"invert"', '"other"'))
    assert create(f"{own_file}:Invert", {}).name == "invert"
    assert create(f"{second}:Invert", {}).name == "other"


def test_it_is_found_from_the_working_directory(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own_file.parent)
    assert create("./own.py:Invert", {}).name == "invert"


def test_another_process_unpickles_it_from_its_file(own_file: Path, tmp_path: Path) -> None:
    sent = pickle.dumps(create(f"{own_file}:Invert", {"top": 250}, seed=3))
    (tmp_path / "sent").write_bytes(sent)
    code = (
        "import pickle, sys, numpy as np; unit = pickle.load(open(sys.argv[1], 'rb')); "
        "made, = unit([np.full((2, 2, 3), 50, np.uint8)], ['0']); "
        "print(unit.name, unit.seed, made.map[0, 0], unit.recipe()['source_sha256'][:6])"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "sent")]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd="/")
    expected = create(f"{own_file}:Invert", {}).recipe()["source_sha256"][:6]
    assert done.stdout.split() == ["invert", "3", "[200", "200", "200]", expected]


def test_a_worker_with_another_file_is_refused(own_file: Path) -> None:
    sent = pickle.dumps(create(f"{own_file}:Invert", {}))
    own_file.write_text(OWN + "# edited\n")
    with pytest.raises(ConfigError, match="is not the file that the run was started with"):
        pickle.loads(sent)  # noqa: S301  our own bytes


def test_cloudpickle_sends_it_the_same_way(own_file: Path) -> None:
    from ray import cloudpickle

    unit: Annotator = cloudpickle.loads(cloudpickle.dumps(create(f"{own_file}:Invert", {"top": 250})))
    (made,) = unit([photo(16, 16)], ["0"])
    assert isinstance(made, Annotation)
    assert (made.map == 250 - photo(16, 16)).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"^annotators: '{name}': there is no file {path}$"),
        ("x = 1\n", r"^annotators: '{name}': {path} has no 'Invert'; it has no annotator$"),
        (OWN.replace("class Invert(Annotator)", "class Invert"), r"is not a subclass of tasks\.annotators\.base\.Ann"),
        ("a = 1\n1 / 0\n", "{path} fails at line 2: ZeroDivisionError: division by zero$"),
        ("import nowhere_to_be_found\n", "{path} fails at line 1: ModuleNotFoundError: No module named 'nowhere_to_b"),
        ("x = 1\ndef f(:\n", "{path} fails at line 2: SyntaxError: invalid syntax$"),
        ("raise SystemExit\n", "{path} fails at line 1: SystemExit$"),
        ("import json\njson.loads('{')\n", "{path} fails at line 2: JSONDecodeError: "),
        ("# no\0text", "{path} fails"),
    ],
    ids=["missing", "no-class", "no-annotator", "raises", "import", "syntax", "exit", "deep", "null"],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "own.py"
    if content is not None:
        path.write_text(content)
    name = f"{path}:Invert"
    with pytest.raises(ConfigError, match=message.replace("{path}", str(path)).replace("{name}", name)) as caught:
        create(name, {})
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "own.py").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read .*own\.py: Is a directory"):
        create(f"{tmp_path}/own.py:Invert", {})


def test_a_wrong_option_is_named_by_its_class(own_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"^annotator_options\.Invert\.top: .*got 'high'"):
        create(f"{own_file}:Invert", {"top": "high"})


def test_the_example_of_the_documentation_works(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[4] / "docs" / "own-annotators.md").read_text()
    (tmp_path / "my_annotator.py").write_text(page.split('```python title="my_annotator.py"')[1].split("```")[0])
    unit = create(f"{tmp_path}/my_annotator.py:Dark", {"below": 80})
    image = photo(64, 32)
    (made,) = unit([image], ["0"])
    assert isinstance(made, Annotation), made
    assert ((made.map == 255) == (image.max(axis=2) < 80)).all()
    assert unit.metadata()["polarity"] == "white_on_black"
