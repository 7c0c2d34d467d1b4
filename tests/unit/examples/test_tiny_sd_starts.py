"""The small Stable Diffusion of the demo: where its training starts, and what was made of it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from controlmill.testing.discs import disc

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "tiny_sd"
BASE = FOLDER / "base"


@pytest.fixture(scope="module")
def starts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tiny_sd_starts", FOLDER / "starts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pictures() -> torch.Tensor:
    pixels = np.stack([disc(7, index, 128)[0] for index in range(8)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_error(vae: AutoencoderKL) -> float:
    with torch.no_grad():
        made = vae.decode(vae.encode(pictures()).latent_dist.mean).sample
    return float((made - pictures()).square().mean())


def test_an_autoencoder_starts_near_a_copy(starts: ModuleType) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL.from_config(AutoencoderKL.load_config(BASE / "vae"))
    # the colours of discs have a variance near 0.8
    assert reconstruction_error(vae) > 0.5
    starts.start_autoencoder(vae)
    assert reconstruction_error(vae) < 0.25


def test_a_denoiser_starts_by_calling_everything_noise(starts: ModuleType) -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(BASE / "unet"))
    starts.start_denoiser(unet)
    noise = torch.randn(4, 4, 16, 16)
    with torch.no_grad():
        made = unet(noise, torch.tensor([999]), torch.zeros(4, 16, 32)).sample
    assert float(torch.corrcoef(torch.stack([noise.flatten(), made.flatten()]))[0, 1]) > 0.9


def test_what_is_committed_is_small_and_reconstructs_discs() -> None:
    assert sum(path.stat().st_size for path in BASE.rglob("*")) < 3_000_000
    assert reconstruction_error(AutoencoderKL.from_pretrained(BASE / "vae")) < 0.01
