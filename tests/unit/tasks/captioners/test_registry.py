"""Captioners by name."""

import pickle
from pathlib import Path

import pytest

from controlmill.config import CaptionOptions
from controlmill.errors import EnvironmentUnusableError
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
