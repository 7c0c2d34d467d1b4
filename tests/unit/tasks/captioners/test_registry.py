"""Captioners by name."""

import pickle
from pathlib import Path

import pytest

from controlmill.config import CaptionOptions
from controlmill.errors import ConfigError, EnvironmentUnusableError
from tasks.captioners.blip import Blip
from tasks.captioners.registry import create


def test_blip_is_constructed_without_being_loaded(blip_folder: Path) -> None:
    unit = create(CaptionOptions(captioner="blip", model=str(blip_folder)))
    assert isinstance(unit, Blip)
    pickled = pickle.dumps(unit)
    assert len(pickled) < 2000
    assert pickle.loads(pickled).recipe() == unit.recipe()  # noqa: S301 pickled in the line before


def test_lavis_without_its_environment_says_how_to_make_it(
    blip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROLMILL_ENVIRONMENTS", str(tmp_path))
    with pytest.raises(EnvironmentUnusableError, match="run `controlmill env create blip-lavis`"):
        create(CaptionOptions(captioner="lavis", model=str(blip_folder)))


@pytest.mark.parametrize(("name", "value"), [("top_p", 0.5), ("temperature", 1.3)])
def test_options_of_drawn_words_need_do_sample(blip_folder: Path, name: str, value: float) -> None:
    options = {"captioner": "blip", "model": str(blip_folder), name: value}
    with pytest.raises(
        ConfigError, match=rf"^{name}: {value} is for drawn words; leave it out, or add do_sample=true$"
    ):
        create(CaptionOptions.model_validate(options))
    create(CaptionOptions.model_validate({**options, "do_sample": True}))
