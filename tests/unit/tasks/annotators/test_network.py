import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from controlmill.config.base import validate
from controlmill.errors import ConfigError, WeightsMissingError, WeightsUnusableError
from controlmill.reasons import RowFailure
from controlmill.testing.pictures import photo
from tasks.annotators.base import Annotation, Annotator
from tasks.annotators.network import NetworkOptions, PaddedNetworkAnnotator, foreign_imports, pad, to_pixels
from tasks.annotators.registry import create
from tasks.weights import find_all_weights


class Grey(PaddedNetworkAnnotator):
    """The mean of the channels, on a device that holds two images at once."""

    name = "grey"
    version = "1"
    options_model = NetworkOptions
    multiple = 32
    held = 2

    def __init__(self, options: NetworkOptions | None = None) -> None:
        super().__init__(options or NetworkOptions())
        self.sizes_of_batches: list[int] = []
        self.setup()

    def build(self, found: Sequence[Any]) -> torch.nn.Module:
        assert not found
        return torch.nn.Identity()

    def infer(self, padded_BCPQ: torch.Tensor, height: int, width: int) -> list[Annotation]:
        assert padded_BCPQ.shape[2] % 32 == padded_BCPQ.shape[3] % 32 == 0
        self.sizes_of_batches.append(len(padded_BCPQ))
        if len(padded_BCPQ) > self.held:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        maps = to_pixels(padded_BCPQ.mean(dim=1)[:, :height, :width] / 255)
        return [Annotation(one) for one in maps]


def _run(grey: Grey, num_images: int) -> list[Annotation | RowFailure]:
    return grey([photo(40, 30, seed=seed) for seed in range(num_images)], [str(seed) for seed in range(num_images)])


def test_a_batch_that_does_not_fit_is_halved_and_stays_halved() -> None:
    grey = Grey()
    made = _run(grey, 8)
    assert all(isinstance(one, Annotation) for one in made)
    assert grey.sizes_of_batches == [8, 4, 2, 2, 2, 2]
    grey.sizes_of_batches.clear()
    again = _run(grey, 8)
    assert grey.sizes_of_batches == [2, 2, 2, 2]
    for one, other in zip(made, again, strict=True):
        assert isinstance(one, Annotation)
        assert isinstance(other, Annotation)
        assert (one.map == other.map).all()


def test_an_image_that_does_not_fit_alone_is_the_trouble_of_the_machine() -> None:
    grey = Grey()
    grey.held = 0
    with pytest.raises(MemoryError, match=r"^grey: one image of 40x30 alone does not fit into memory: .*CUDA out of"):
        _run(grey, 2)
    assert grey.sizes_of_batches == [2, 1]


def test_the_size_of_a_batch_is_an_option() -> None:
    grey = Grey(NetworkOptions(batch_size=1))
    _run(grey, 3)
    assert grey.sizes_of_batches == [1, 1, 1]
    with pytest.raises(ConfigError, match="batch_size"):
        validate(NetworkOptions, {"batch_size": 0})


def test_padding_repeats_the_edge_and_is_cut_off() -> None:
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    padded = pad(image, 4)
    assert padded[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert pad(image, 1) is not None
    (made,) = Grey()([photo(37, 33)], ["0"])
    assert isinstance(made, Annotation)
    assert (made.map == (photo(37, 33).astype(np.float32).mean(axis=2)).astype(np.uint8)).mean() > 0.99


def test_values_are_cut_off_and_not_rounded() -> None:
    assert to_pixels(torch.tensor([-0.1, 0.0, 0.5, 0.9999, 1.0, 1.2])).tolist() == [0, 0, 127, 254, 255, 255]


def test_the_process_is_left_as_it_was(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KMP_DUPLICATE_LIB_OK", raising=False)
    with foreign_imports():
        print("noise")  # noqa: T201
        os.environ["KMP_DUPLICATE_LIB_OK"] = "TRUE"
    assert "KMP_DUPLICATE_LIB_OK" not in os.environ
    assert capsys.readouterr().out == ""


def test_weights_that_are_missing_are_one_error_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTROLMILL_WEIGHTS", str(tmp_path))
    hed = create("hed", {})
    for ask in (hed.recipe, hed.setup):
        with pytest.raises(WeightsMissingError, match=rf"ControlNetHED\.pth of .* put it at {tmp_path}/"):
            ask()
    with pytest.raises(WeightsMissingError) as caught:
        find_all_weights([hed, create("scribble_hed", {}), create("mlsd", {}), create("canny", {})])
    assert ": ControlNetHED.pth, mlsd_large_512_fp32.pth of https://huggingface.co/lllyasviel/Ann" in str(caught.value)


def test_a_worker_with_other_weights_is_refused(
    make: Callable[..., Annotator], weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    sent = make("lineart")
    sent.recipe()
    received = pickle.loads(pickle.dumps(sent))  # noqa: S301  our own bytes
    content = (weights_folder / "sk_model.pth").read_bytes()
    (tmp_path / "sk_model.pth").write_bytes(content + b"\0")
    monkeypatch.setenv("CONTROLMILL_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsUnusableError, match="all machines of a run need the same weights"):
        received.setup()


def test_own_weights_change_the_recipe_and_their_place_does_not(
    make: Callable[..., Annotator], weights_folder: Path, tmp_path: Path
) -> None:
    published = make("lineart").recipe()
    make("lineart", coarse=True)
    (tmp_path / "mine.pth").write_bytes((weights_folder / "sk_model.pth").read_bytes())
    assert create("lineart", {"weights": str(tmp_path / "mine.pth")}, seed=7).recipe() == published
    other = create("lineart", {"weights": str(weights_folder / "sk_model2.pth")}, seed=7).recipe()
    assert other != published
