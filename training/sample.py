"""Generating images with a ControlNet: DDIM with classifier-free guidance, after the official code.

Shapes: B batch (one image each), C channels, H W height and width of latents; hints and pixels are 8 times as large.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training import draws
from training.base_files import Part, read_json
from training.base_model import BaseModel, Residuals
from training.batch import PIXELS_PER_LATENT, PromptEmbeddings
from training.controlnet import ControlNets

Control = Callable[..., Residuals]
"""Called as `ControlNets`."""

GUESS_RATIO = 0.825
"""Of one level to the next coarser one in guess mode (`gradio_canny2image.py` of the official code)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How images are generated; see `controlmill.config.sample`."""

    num_steps: int = 20
    guidance_scale: float = 9.0
    eta: float = 0.0
    seed: int = 0
    control_strength: float = 1.0
    guess_mode: bool = False

    @property
    def is_guided(self) -> bool:
        """Whether there is a second branch, without the prompt."""
        return self.guidance_scale > 1


def scales(sampling: Sampling, num_residuals: int) -> list[float]:
    """Factors on the residuals, finest level first and the middle block last: 13 for SD 1.x and 2.x."""
    if not sampling.guess_mode:
        return [sampling.control_strength] * num_residuals
    last = num_residuals - 1
    return [sampling.control_strength * GUESS_RATIO ** (last - i) for i in range(num_residuals)]


@torch.no_grad()
def sample(
    base: BaseModel,
    nets: ControlNets,
    hints: Sequence[Tensor],
    prompts: Sequence[str],
    negative_prompts: Sequence[str],
    sampling: Sampling,
    device: torch.device | str | None = None,
) -> Tensor:
    """Images for hints and prompts.

    Args:
        base: with all of its parts.
        nets: on the base.
        hints: one (B, 3, 8H, 8W) in [0, 1] per condition.
        prompts: B of them.
        negative_prompts: B of them.
        sampling: how.
        device: where each network goes while it works, and leaves afterwards (`low_vram`); None where they are.

    Returns:
        Pixels (B, 3, 8H, 8W) in [-1, 1], float32 on the CPU; image i depends on the seed and i only.
    """
    where = torch.device(device) if device is not None else base.device
    with _at_work(base, "text", device):
        positive, negative = base.encode_prompts(prompts), encode_negative(base, negative_prompts)
    with _at_work(base, "unet", device), _nets_at_work(nets, device):
        keys = [str(number) for number in range(len(prompts))]
        run = Denoising(base, nets, [hint.to(where) for hint in hints], sampling)
        latents_BCHW = run.latents(positive, negative, keys, where)
    with _at_work(base, "vae", device):
        # one by one: the decoder takes more memory than everything else
        pixels = [base.decode_latents(latent[None]).cpu() for latent in latents_BCHW]
    return torch.cat(pixels)


class Denoising:
    """Noise to latents, step by step."""

    def __init__(self, base: BaseModel, control: Control | None, hints: Sequence[Tensor], sampling: Sampling) -> None:
        """Put together.

        Args:
            base: with its UNet.
            control: called as ControlNets; None for the base alone.
            hints: one (B, 3, 8H, 8W) in [0, 1] per condition, on the device.
            sampling: how.
        """
        self._base, self._control, self._hints, self._sampling = base, control, hints, sampling

    @torch.no_grad()
    def latents(
        self, positive: PromptEmbeddings, negative: PromptEmbeddings, keys: Sequence[str], device: torch.device
    ) -> Tensor:
        """Latents (B, C, H, W); those of an image depend on the seed and its key only."""
        sampling, num_images = self._sampling, len(keys)
        height, width = self._hints[0].shape[-2:]
        shape = (self._base.latent_channels, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
        scheduler = _scheduler(self._base)
        scheduler.set_timesteps(sampling.num_steps, device=device)
        latents_BCHW: Tensor = (
            draws.normal(sampling.seed, 0, keys, "sample", shape).to(device) * scheduler.init_noise_sigma
        )
        for number, timestep in enumerate(scheduler.timesteps):
            timesteps_B = timestep.expand(num_images)
            predicted_BCHW = self._predict(latents_BCHW, timesteps_B, positive.to(device), negative.to(device))
            noise_BCHW = None
            if sampling.eta > 0:
                noise_BCHW = draws.normal(sampling.seed, number + 1, keys, "sample", shape).to(device)
            latents_BCHW = scheduler.step(
                predicted_BCHW, timestep, latents_BCHW, eta=sampling.eta, variance_noise=noise_BCHW
            ).prev_sample
        return latents_BCHW

    def _predict(
        self, latents_BCHW: Tensor, timesteps_B: Tensor, positive: PromptEmbeddings, negative: PromptEmbeddings
    ) -> Tensor:
        sampling = self._sampling
        if not sampling.is_guided:
            return self._controlled(latents_BCHW, timesteps_B, positive)
        if sampling.guess_mode:
            with_prompt = self._controlled(latents_BCHW, timesteps_B, positive)
            without = self._base.predict(latents_BCHW, timesteps_B, negative, None, self._time_ids(latents_BCHW))
        else:
            both = _joined(negative, positive)
            twice_BCHW, hints = latents_BCHW.repeat(2, 1, 1, 1), [hint.repeat(2, 1, 1, 1) for hint in self._hints]
            without, with_prompt = self._controlled(twice_BCHW, timesteps_B.repeat(2), both, hints).chunk(2)
        return without + sampling.guidance_scale * (with_prompt - without)

    def _controlled(
        self,
        latents_BCHW: Tensor,
        timesteps_B: Tensor,
        prompts: PromptEmbeddings,
        hints: Sequence[Tensor] | None = None,
    ) -> Tensor:
        time_ids_BT = self._time_ids(latents_BCHW)
        if self._control is None:
            return self._base.predict(latents_BCHW, timesteps_B, prompts, None, time_ids_BT)
        given = self._hints if hints is None else hints
        residuals = self._control(latents_BCHW, timesteps_B, prompts, given, time_ids_BT)
        scaled = residuals.scaled(scales(self._sampling, len(residuals.down) + 1))
        return self._base.predict(latents_BCHW, timesteps_B, prompts, scaled, time_ids_BT)

    def _time_ids(self, latents_BCHW: Tensor) -> Tensor | None:
        """SDXL: an image that was neither scaled nor cropped."""
        if self._base.kind != "sdxl":
            return None
        height, width = (float(side * PIXELS_PER_LATENT) for side in latents_BCHW.shape[-2:])
        ids = torch.tensor([height, width, 0.0, 0.0, height, width], device=latents_BCHW.device)
        return ids.expand(len(latents_BCHW), -1)


def _scheduler(base: BaseModel) -> Any:
    """DDIM with the base's betas; its files may be another sampler's, which say nothing of clipping."""
    diffusers: Any = importlib.import_module("diffusers")
    config = read_json(base.folder / "scheduler" / "scheduler_config.json")
    defaults = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    known = {name: value for name, value in config.items() if not name.startswith("_")}
    return diffusers.DDIMScheduler.from_config({**defaults, **known})


def encode_negative(base: BaseModel, prompts: Sequence[str]) -> PromptEmbeddings:
    """Embeddings of negative prompts, as diffusers' pipelines make them."""
    embeddings = base.encode_prompts(prompts)
    index = read_json(base.folder / "model_index.json")
    if base.kind != "sdxl" or not index.get("force_zeros_for_empty_prompt", True) or embeddings.pooled_BD is None:
        return embeddings
    # SDXL's pipeline takes zeros for an empty negative prompt
    kept = torch.tensor([float(bool(prompt)) for prompt in prompts], device=embeddings.hidden_BLD.device)
    return PromptEmbeddings(embeddings.hidden_BLD * kept[:, None, None], embeddings.pooled_BD * kept[:, None])


def _joined(first: PromptEmbeddings, second: PromptEmbeddings) -> PromptEmbeddings:
    hidden_BLD = torch.cat([first.hidden_BLD, second.hidden_BLD])
    if first.pooled_BD is None or second.pooled_BD is None:
        return PromptEmbeddings(hidden_BLD)
    return PromptEmbeddings(hidden_BLD, torch.cat([first.pooled_BD, second.pooled_BD]))


def _at_work(base: BaseModel, part: Part, device: torch.device | str | None) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if device is None else base.only_inside(part, device)


@contextlib.contextmanager
def _nets_at_work(nets: ControlNets, device: torch.device | str | None) -> Iterator[None]:
    if device is not None:
        nets.to(device)
    try:
        yield
    finally:
        if device is not None:
            nets.to("cpu")
