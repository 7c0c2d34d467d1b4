"""`controlmill encode` before anything is started."""

from pathlib import Path

import pytest

from controlmill.cli.main import main
from controlmill.testing.training_set import write_training_set


def test_mistakes_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", str(tmp_path)]) == 2
    assert "pretrained_model_name_or_path: Field required" in capsys.readouterr().err
    assert main(["encode", str(tmp_path), "--pretrained-model-name-or-path", "/nowhere/base"]) == 4
    dataset = write_training_set(tmp_path, 4, 64)
    assert main(["encode", dataset, "--pretrained-model-name-or-path", "/nowhere/base"]) == 7
    assert "there is no folder /nowhere/base" in capsys.readouterr().err
    assert main(["encode", dataset, "--pretrained-model-name-or-path", "x", "--resolution", "100"]) == 2
    assert "resolution: 100 is not a multiple of 8" in capsys.readouterr().err
