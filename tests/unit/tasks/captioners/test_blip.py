"""BLIP by transformers on small random weights: batches, beams, drawn words, both forms of files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from controlmill.config import CaptionOptions
from controlmill.testing.small_blip import WORDS, write_small_blip
from tasks.captioners.base import CaptionModel
from tasks.captioners.blip import Blip, GumbelNoise
from tasks.captioners.convert import to_lavis
from tasks.captioners.model import find_model
from tasks.images.types import Pixels

Discs = tuple[list[np.ndarray], list[str]]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def blip(model: CaptionModel, **options: object) -> Blip:
    values = {"captioner": "blip", "model": "small", "max_new_tokens": 12, **options}
    unit = Blip(CaptionOptions.model_validate(values), model)
    unit.setup("cpu")
    return unit


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 1}, {"num_beams": 1, "prompt": ""}, {"do_sample": True, "temperature": 1.3}]
)
def test_a_caption_does_not_depend_on_its_neighbours(
    model: CaptionModel, discs: Discs, options: dict[str, Any]
) -> None:
    unit = blip(model, **options)
    images, keys = discs
    together = unit(images, keys)
    alone = [unit([image], [key])[0] for image, key in zip(images, keys, strict=True)]
    backwards = unit(images[::-1], keys[::-1])[::-1]
    assert together == alone == backwards
    assert len(set(together)) > len(images) // 2, "these weights do not look at the image"


class CrowdedBlip(Blip):
    """On a GPU that holds two images at once."""

    def _generate(self, images: Sequence[Pixels], keys: Sequence[str]) -> torch.Tensor:
        self.sizes = [*getattr(self, "sizes", []), len(images)]
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return super()._generate(images, keys)


def test_a_batch_that_does_not_fit_onto_the_gpu_is_captioned_in_parts(model: CaptionModel, discs: Discs) -> None:
    images, keys = discs
    unit = CrowdedBlip(blip(model).options, model)
    unit.setup("cpu")
    assert unit(images[:8], keys[:8]) == blip(model)(images[:8], keys[:8])
    assert unit.sizes == [8, 4, 2, 2, 4, 2, 2]


def test_drawn_words_come_from_seed_and_key(model: CaptionModel, discs: Discs) -> None:
    images, keys = discs
    drawn = blip(model, do_sample=True, seed=1)(images, keys)
    assert blip(model, do_sample=True, seed=1)(images, keys) == drawn
    assert blip(model, do_sample=True, seed=2)(images, keys) != drawn
    assert blip(model, do_sample=True, seed=1)(images, [f"1{key}" for key in keys]) != drawn


def test_global_random_state_is_not_touched(model: CaptionModel, discs: Discs) -> None:
    unit = blip(model, do_sample=True)
    before = torch.get_rng_state()
    unit(*discs)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_draws_by_probability() -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, -torch.inf])
    num_draws = 20_000
    noise = GumbelNoise(range(num_draws))
    chosen = noise(torch.zeros(num_draws, 1), logits.repeat(num_draws, 1)).argmax(dim=1)
    frequencies = torch.bincount(chosen, minlength=4) / num_draws
    assert frequencies[3] == 0
    # four standard deviations of a frequency around one half
    assert torch.allclose(frequencies, logits.softmax(dim=0), atol=4 * 0.5 / num_draws**0.5)


def test_length_is_that_of_the_new_words(model: CaptionModel, discs: Discs) -> None:
    for caption in blip(model, min_new_tokens=12, max_new_tokens=12)(*discs):
        # a word of the vocabulary per token, but that pieces such as ##ed join the word before them
        assert isinstance(caption, str)
        assert 6 <= len(caption.split()) <= 12
        assert set(caption.replace("ed", " ").replace("ish", " ").split())


def test_the_prompt_is_gone_on_from_and_not_repeated(model: CaptionModel, discs: Discs) -> None:
    with_prompt, without = blip(model)(*discs), blip(model, prompt="")(*discs)
    assert with_prompt != without
    assert not any(str(caption).startswith("a picture of") for caption in with_prompt)


def test_both_forms_of_weights_give_the_same_captions(
    blip_folder: Path, model: CaptionModel, discs: Discs, tmp_path: Path
) -> None:
    state = to_lavis(load_file(blip_folder / "model.safetensors"))
    torch.save({"model": state, "epoch": 4}, tmp_path / "caption.pth")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (tmp_path / "preprocessor_config.json").write_text((blip_folder / "preprocessor_config.json").read_text())
    assert blip(find_model(str(tmp_path)))(*discs) == blip(model)(*discs)


def test_weights_in_a_pickle_of_tensors_are_read(model: CaptionModel, discs: Discs, tmp_path: Path) -> None:
    folder = write_small_blip(tmp_path / "small-blip")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert blip(find_model(str(folder)))(*discs) == blip(model)(*discs)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    torch.save({"model": Bomb(tmp_path / "exploded")}, tmp_path / "caption.pth")
    with pytest.raises(Exception, match="[Ww]eights"):
        blip(find_model(str(tmp_path)))
    assert not (tmp_path / "exploded").exists()


def test_weights_that_lack_a_layer_are_refused(blip_folder: Path, tmp_path: Path) -> None:
    state = to_lavis(load_file(blip_folder / "model.safetensors"))
    del state["visual_encoder.norm.bias"]
    torch.save(state, tmp_path / "caption.pth")
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    with pytest.raises(ValueError, match="vision_model.post_layernorm.bias"):
        blip(find_model(str(tmp_path)))


@pytest.mark.parametrize("num_beams", [1, 5])
def test_one_copy_of_the_image_for_all_beams_changes_nothing(
    model: CaptionModel, discs: Discs, num_beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = blip(model, num_beams=num_beams)(*discs)
    monkeypatch.setattr("tasks.captioners.blip._shared_image_cache", lambda: None)
    assert blip(model, num_beams=num_beams)(*discs) == shared
