import subprocess
import sys
from pathlib import Path

import pytest

from controlmill.errors import ConfigError
from controlmill.testing.pictures import photo
from tasks.annotators.base import Annotation
from tasks.annotators.canny import Canny
from tasks.annotators.registry import create, names

OWN = """
import numpy as np
from controlmill.config.base import Options
from tasks.annotators.base import Annotation, Annotator

class InvertOptions(Options):
    top: int = 255

class Invert(Annotator):
    name = "invert"
    version = "1"
    options_model = InvertOptions
    channels = 3

    def annotate(self, images, keys):
        return [Annotation((self.options.top - image).astype(np.uint8)) for image in images]

class Image(Invert):
    name = "image"

class Canny(Invert):
    name = "canny"

class Unfinished(Annotator):
    name = "unfinished"
"""


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the path, as pip leaves one, that registers annotators."""
    (tmp_path / "their_package.py").write_text(OWN)
    folder = tmp_path / "their_package-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_package", raising=False)
    return folder / "entry_points.txt"


def test_canny_comes_with_controlmill() -> None:
    assert "canny" in names()
    made = create("canny", {"low_threshold": [50, 100]}, seed=3)
    assert isinstance(made, Canny)
    assert made.recipe() == {"low_threshold": [50, 100], "high_threshold": [200, 200], "seed": 3}


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"there is no annotator 'cany'; there are .*canny"):
        create("cany", {})


def test_a_wrong_option_is_named_in_full() -> None:
    with pytest.raises(ConfigError, match=r"^annotator_options\.canny\.low_threshold: .*got 'soft'"):
        create("canny", {"low_threshold": "soft"})
    with pytest.raises(ConfigError, match=r"annotator_options\.canny\.lo: there is no such option"):
        create("canny", {"lo": 1})


def test_a_class_in_a_file_of_the_users(own_file: Path) -> None:
    made = create(f"{own_file}:Invert", {"top": 255})
    image = photo(32, 16)
    (annotation,) = made([image], ["0"])
    assert isinstance(annotation, Annotation)
    assert (annotation.map == 255 - image).all()
    assert made.name == "invert"


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("Missing", r"own\.py has no 'Missing'; it has Canny, Image, Invert, Unfinished"),
        ("InvertOptions", "is not a subclass"),
        ("Unfinished", "lacks version, options_model, annotate"),
        ("Image", "calls its layer 'image'"),
        ("Canny", "calls its layer 'canny', as another annotator is called"),
    ],
)
def test_a_class_that_cannot_serve_says_why(own_file: Path, attribute: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create(f"{own_file}:{attribute}", {})


def test_installed_packages_register_annotators(installed: Path) -> None:
    installed.write_text("[controlmill.annotators]\ninvert = their_package:Invert\nlost = their_package:Lost\n")
    assert {"canny", "invert", "lost"} <= set(names())
    assert create("invert", {}).name == "invert"
    with pytest.raises(ConfigError, match="'lost' of their-package cannot be imported"):
        create("lost", {})


def test_a_layer_is_called_as_the_package_registers_it(installed: Path) -> None:
    names = ("negative", "Ne-gative")
    lines = [f"{name} = their_package:Invert" for name in names]
    installed.write_text("\n".join(["[controlmill.annotators]", *lines]))
    assert create("negative", {}).name == "negative"
    with pytest.raises(ConfigError, match="'Ne-gative', which cannot be the name of a layer"):
        create("Ne-gative", {})


def test_a_package_that_fails_to_import_is_one_line(installed: Path) -> None:
    (installed.parents[1] / "their_broken.py").write_text("raise OSError('two\\nlines')")
    installed.write_text("[controlmill.annotators]\nbroken = their_broken:Invert\n")
    with pytest.raises(ConfigError, match=r"^annotators: 'broken' of their-package cannot be imported: two lines$"):
        create("broken", {})


def test_a_package_cannot_take_a_name_of_controlmills(installed: Path) -> None:
    installed.write_text("[controlmill.annotators]\ncanny = their_package:Invert\n")
    with pytest.raises(ConfigError, match="their-package registers 'canny'"):
        create("canny", {})


def test_names_of_controlnet_aux_are_presets_and_layers_of_their_own() -> None:
    made = create("scribble_hedsafe", {})
    assert made.name == "scribble_hedsafe"
    assert made.options.model_dump(include={"safe", "scribble"}) == {"safe": True, "scribble": True}
    assert create("scribble_hedsafe", {"safe": False}).options.model_dump()["safe"] is False
    with pytest.raises(ConfigError, match=r"annotator_options\.scribble_hed\.save: there is no such option"):
        create("scribble_hed", {"save": True})


def test_every_name_of_the_families_that_there_are_is_known() -> None:
    theirs = {
        "scribble_hed", "softedge_hed", "scribble_hedsafe", "softedge_hedsafe", "depth_midas", "mlsd", "openpose",
        "openpose_face", "openpose_faceonly", "openpose_full", "openpose_hand", "normal_bae", "lineart_coarse",
        "lineart_realistic", "canny",
    }  # fmt: skip
    assert theirs <= set(names())


def test_a_package_cannot_take_a_preset(installed: Path) -> None:
    installed.write_text("[controlmill.annotators]\nsoftedge_hed = their_package:Invert\n")
    with pytest.raises(ConfigError, match="their-package registers 'softedge_hed'"):
        create("softedge_hed", {})


def test_constructing_and_listing_import_no_torch() -> None:
    code = (
        "import sys; from tasks.annotators.registry import create, names; "
        "[create(name, {}) for name in names()]; "
        "print(*sorted({'torch', 'controlnet_aux', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
