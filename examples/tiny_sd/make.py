"""Train the small Stable Diffusion of the demo from nothing: coloured discs of 128 x 128 from their prompts.

Three minutes of one CPU core. Writes unet, vae, text_encoder, tokenizer and scheduler in diffusers' layout, under 3 MB.
Usage: python examples/tiny_sd/make.py [FOLDER] [--vae-updates 400] [--updates 2600]
"""

import argparse
import copy
import itertools
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from starts import start_autoencoder, start_denoiser
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from controlmill.testing.discs import COLORS, disc
from controlmill.testing.tiny_sd import byte_pairs, write_bpe

# B batch, C channels, H W height and width, L tokens, D embedding
SIZE = 128
NUM_IMAGES = 2048
SEED = 1_000_000
"""Of these images: others than any that a ControlNet is trained on."""
MAX_TOKENS = 16
CROP = 64
WARM_UP = 50
KL_WEIGHT = 1e-6
LOG_VARIANCE = -12.0
"""Of the posterior in the end."""
PROMPT_DROP = 0.1
SNR_GAMMA = 1.0
EMA_DECAY = 0.995


def networks() -> tuple[AutoencoderKL, UNet2DConditionModel, CLIPTextModel, CLIPTokenizer]:
    """The parts, started as `starts` says."""
    vocabulary, merges = byte_pairs()
    start, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = CLIPTokenizer(vocabulary, merges, pad_token=end, model_max_length=MAX_TOKENS)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=32,
            bos_token_id=vocabulary[start],
            eos_token_id=vocabulary[end],
            pad_token_id=vocabulary[end],
        )
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=1,
        latent_channels=4,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=1,
        norm_num_groups=2,
    )
    start_autoencoder(vae)
    start_denoiser(unet)
    return vae, unet, text, tokenizer


def pictures() -> tuple[torch.Tensor, list[str]]:
    """The training images, [B, 3, H, W] in [-1, 1], and their prompts."""
    drawn = [disc(SEED, index, SIZE) for index in range(NUM_IMAGES)]
    pixels = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2)
    return pixels.float() / 127.5 - 1.0, [prompt for _, prompt in drawn]


def schedule(optimizer: torch.optim.Optimizer, num_updates: int) -> torch.optim.lr_scheduler.LambdaLR:
    """A linear warm-up, then a cosine down to a twentieth."""

    def factor(update: int) -> float:
        if update < WARM_UP:
            return (update + 1) / WARM_UP
        return 0.05 + 0.475 * (1 + math.cos(math.pi * (update - WARM_UP) / max(1, num_updates - WARM_UP)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def crops(pixels_BCHW: torch.Tensor, generator: torch.Generator, num: int) -> torch.Tensor:
    """Crops with a piece of a rim in their middle, as far as the border allows: the rest of a picture is flat."""
    chosen = []
    for index in torch.randint(len(pixels_BCHW), (num,), generator=generator).tolist():
        image = pixels_BCHW[index]
        rim = (image - image[:, :1, :1]).abs().sum(0) > 0.1
        inside = rim & ~torch.roll(rim, 1, 0) | rim & ~torch.roll(rim, 1, 1)
        at = inside.nonzero()
        y, x = at[int(torch.randint(len(at), (1,), generator=generator))].tolist()
        top, left = (min(max(0, place - CROP // 2), SIZE - CROP) for place in (y, x))
        chosen.append(image[:, top : top + CROP, left : left + CROP])
    return torch.stack(chosen)


def train_autoencoder(vae: AutoencoderKL, pixels_BCHW: torch.Tensor, num_updates: int) -> None:
    """Squared error, and next to nothing of the divergence; sets `scaling_factor` so that latents have variance 1."""
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=4e-3, betas=(0.9, 0.99))
    rate = schedule(optimizer, num_updates)
    for update in range(num_updates):
        batch = crops(pixels_BCHW, generator, 8)
        posterior = vae.encode(batch).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        made = vae.decode(posterior.mean + posterior.std * noise).sample
        error = functional.mse_loss(made, batch)
        loss = error + KL_WEIGHT * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        rate.step()
        report("vae", update, num_updates, error)
    with torch.no_grad():
        # with so little divergence the posterior stays wide (0.4 of a latent's deviation), which no real one is: the
        # denoiser learns from means, and whoever draws from the posterior would show it noise that it never saw
        latent = vae.config.latent_channels
        vae.quant_conv.weight[latent:] = 0.0
        vae.quant_conv.bias[latent:] = LOG_VARIANCE
    deviation = float(encoded(vae, pixels_BCHW[:256], 1.0).std())
    vae.register_to_config(scaling_factor=1.0 / deviation)


@torch.no_grad()
def encoded(vae: AutoencoderKL, pixels_BCHW: torch.Tensor, factor: float) -> torch.Tensor:
    """Posterior means times `factor`."""
    return torch.cat([vae.encode(part).latent_dist.mean for part in pixels_BCHW.split(32)]) * factor


class Prompts:
    """All prompts there are, as tokens; the empty one is the last."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        every = [f"{fill} disc on a {back} background" for fill, back in itertools.permutations(COLORS, 2)]
        self.numbers = {prompt: number for number, prompt in enumerate([*every, ""])}
        options = {"padding": "max_length", "max_length": MAX_TOKENS, "truncation": True, "return_tensors": "pt"}
        self.tokens_BL = tokenizer(list(self.numbers), **options).input_ids


def train_denoiser(
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    data: tuple[torch.Tensor, torch.Tensor],
    tokens_BL: torch.Tensor,
    num_updates: int,
) -> None:
    """UNet and text encoder together on noise prediction, weighted min(SNR, 1) / SNR; both end as their averages.

    Weighting: Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy" (2023), equation 8.
    """
    latents_BCHW, numbers_B = data
    generator = torch.Generator().manual_seed(SEED + 1)
    alphas = noise_schedule().alphas_cumprod
    ratio = alphas / (1 - alphas)
    weights = ratio.clamp(max=SNR_GAMMA) / ratio
    weights = weights / weights.mean()
    both = torch.nn.ModuleList([unet, text])
    averaged = copy.deepcopy(both)
    optimizer = torch.optim.AdamW(both.parameters(), lr=3e-3, weight_decay=1e-4)
    rate = schedule(optimizer, num_updates)
    for update in range(num_updates):
        rows = torch.randint(len(latents_BCHW), (32,), generator=generator)
        steps = torch.randint(len(alphas), (32,), generator=generator)
        noise = torch.randn(latents_BCHW[rows].shape, generator=generator)
        dropped = torch.rand(32, generator=generator) < PROMPT_DROP
        numbers = torch.where(dropped, len(tokens_BL) - 1, numbers_B[rows])
        share = alphas[steps].view(-1, 1, 1, 1)
        noisy = share.sqrt() * latents_BCHW[rows] + (1 - share).sqrt() * noise
        predicted = unet(noisy, steps, text(tokens_BL).last_hidden_state[numbers]).sample
        error = (predicted - noise).square().mean((1, 2, 3))
        optimizer.zero_grad()
        (error * weights[steps]).mean().backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        rate.step()
        average(averaged, both, update)
        report("unet", update, num_updates, error.mean())
    both.load_state_dict(averaged.state_dict())


@torch.no_grad()
def average(averaged: torch.nn.Module, current: torch.nn.Module, update: int) -> None:
    """One step of the exponential moving average, short at the beginning."""
    decay = min(EMA_DECAY, (1 + update) / (10 + update))
    for mean, value in zip(averaged.parameters(), current.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


def noise_schedule() -> DDIMScheduler:
    """Stable Diffusion's; its pipelines switch clipping off, whatever is saved."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
        clip_sample=False,
    )


def report(what: str, update: int, num_updates: int, value: torch.Tensor) -> None:
    """A line now and then."""
    if update % 100 == 0 or update == num_updates - 1:
        print(f"{what} {update:5d}  error {float(value.detach()):.4f}  {time.process_time():.0f} CPU-s", flush=True)


def save(folder: Path, parts: tuple[Any, ...]) -> None:
    """Through diffusers' own pipeline; the files of the tokenizer as published ones have them."""
    vae, unet, text, tokenizer = parts
    pipeline = StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler=noise_schedule(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    write_bpe(folder / "tokenizer")


def main() -> None:
    """Train, save, and say what was made."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "base")
    parser.add_argument("--vae-updates", type=int, default=400)
    parser.add_argument("--updates", type=int, default=2600)
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    parts = vae, unet, text, tokenizer = networks()
    pixels_BCHW, prompts = pictures()
    train_autoencoder(vae, pixels_BCHW, arguments.vae_updates)
    latents = encoded(vae, pixels_BCHW, vae.config.scaling_factor)
    table = Prompts(tokenizer)
    numbers = torch.tensor([table.numbers[prompt] for prompt in prompts])
    train_denoiser(unet, text, (latents, numbers), table.tokens_BL, arguments.updates)
    save(arguments.folder, parts)
    num_bytes = sum(path.stat().st_size for path in arguments.folder.rglob("*") if path.is_file())
    print(f"{arguments.folder}: {num_bytes / 1e6:.2f} MB, largest latent {float(latents.abs().max()):.2f}")


if __name__ == "__main__":
    main()
