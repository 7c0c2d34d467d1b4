"""The sampler against diffusers' own, guess mode against the official code's factors, and memory saving."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from controlmill.config.model import ModelOptions
from controlmill.testing.tiny_sd import Kind
from training import draws
from training.base_model import BaseModel
from training.controlnet import ControlNets, create
from training.sample import Sampling, sample, scales

Tiny = Callable[..., Path]
HINTS = [torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))]
PROMPTS = ["red disc on a blue background", "green disc"]


def loaded(folder: Path, num_conditions: int = 1) -> tuple[BaseModel, ControlNets]:
    base = BaseModel.load(str(folder))
    options = ModelOptions(
        pretrained_model_name_or_path=str(folder),
        connection_init="gaussian",
        hint_channels=(4, 4, 8, 8),
        hint_init="kaiming",
    )
    return base, create(base, options, 0, num_conditions).eval()


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_images_are_those_of_the_pipeline_of_diffusers(kind: Kind, tiny_sd: Tiny) -> None:
    base, nets = loaded(tiny_sd(kind))
    ours = sample(base, nets, HINTS, PROMPTS, ["", ""], Sampling(num_steps=3, seed=4, control_strength=0.7))
    name = f"StableDiffusion{'XL' if kind == 'sdxl' else ''}ControlNetPipeline"
    pipeline = getattr(diffusers, name).from_pretrained(
        tiny_sd(kind), controlnet=nets.nets[0], low_cpu_mem_usage=False,
        scheduler=diffusers.DDIMScheduler.from_config(  # type: ignore[no-untyped-call]
            base.schedule.config, clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        PROMPTS, image=HINTS[0], num_inference_steps=3, guidance_scale=9.0, controlnet_conditioning_scale=0.7,
        latents=draws.normal(4, 0, ["0", "1"], "sample", (4, 8, 8)), output_type="pt",
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs * 2 - 1, atol=1e-3, rtol=0)
    assert ours.std() > 0.05


def test_guess_mode_weakens_finer_levels_as_the_official_code() -> None:
    factors = scales(Sampling(guess_mode=True, control_strength=2.0), 13)
    assert factors == [2.0 * 0.825 ** (12 - i) for i in range(13)]
    assert scales(Sampling(control_strength=0.5), 13) == [0.5] * 13


def test_guess_mode_controls_only_the_branch_with_the_prompt(tiny_sd: Tiny) -> None:
    base, nets = loaded(tiny_sd("sd1"))
    plain, guess, none = (
        sample(base, nets, HINTS, ["", ""], ["", ""], Sampling(2, guidance_scale=4.0, seed=1, **changes))  # type: ignore[arg-type]
        for changes in ({}, {"guess_mode": True}, {"guess_mode": True, "control_strength": 0.0})
    )
    # with the same empty prompt on both branches, guidance only acts on what the control makes different
    unguided = sample(base, nets, HINTS, ["", ""], ["", ""], Sampling(2, 1.0, seed=1, control_strength=0.0))
    torch.testing.assert_close(none, unguided, atol=1e-4, rtol=0)
    assert not torch.allclose(plain, guess, atol=1e-2)


def test_an_image_depends_on_its_seed_and_number_only(tiny_sd: Tiny) -> None:
    base, nets = loaded(tiny_sd("sd1"))
    both = sample(base, nets, HINTS, PROMPTS, ["", ""], Sampling(2, seed=3, eta=1.0))
    alone = sample(base, nets, [HINTS[0][:1]], PROMPTS[:1], [""], Sampling(2, seed=3, eta=1.0))
    torch.testing.assert_close(both[:1], alone, atol=1e-4, rtol=0)
    other = sample(base, nets, [HINTS[0][:1]], PROMPTS[:1], [""], Sampling(2, seed=5, eta=1.0))
    assert not torch.allclose(alone, other, atol=1e-2)


def test_saving_memory_changes_nothing_and_leaves_every_network_on_the_cpu(
    tiny_sd: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, nets = loaded(tiny_sd("sd1"))
    expected = sample(base, nets, HINTS, PROMPTS, ["", ""], Sampling(2))
    assert base.text is not None
    parts = {id(base.text.encoders): "text", id(base.unet): "unet", id(nets): "nets", id(base.vae): "vae"}
    moves: list[tuple[str, str]] = []
    move = torch.nn.Module.to

    def noted(module: torch.nn.Module, *given: Any, **options: Any) -> Any:
        if id(module) in parts:
            moves.append((parts[id(module)], str(given[0])))
        return move(module, *given, **options)

    monkeypatch.setattr(torch.nn.Module, "to", noted)
    # the same device by another name, as a GPU has one
    assert torch.equal(sample(base, nets, HINTS, PROMPTS, ["", ""], Sampling(2), device="cpu:0"), expected)
    assert moves == [
        ("text", "cpu:0"), ("text", "cpu"), ("unet", "cpu:0"), ("nets", "cpu:0"), ("nets", "cpu"), ("unet", "cpu"),
        ("vae", "cpu:0"), ("vae", "cpu"),
    ]  # fmt: skip
    with base.only_inside("unet", "cpu:0"):
        assert base.device == torch.device("cpu:0")
    assert base.device == torch.device("cpu")


def test_several_conditions_act_together(tiny_sd: Tiny) -> None:
    base, nets = loaded(tiny_sd("sd1"), num_conditions=2)
    hints = [HINTS[0], 1 - HINTS[0]]
    one = sample(base, nets, hints, PROMPTS, ["", ""], Sampling(2))
    other = sample(base, nets, [hints[0], hints[0]], PROMPTS, ["", ""], Sampling(2))
    assert not torch.allclose(one, other, atol=1e-2)
