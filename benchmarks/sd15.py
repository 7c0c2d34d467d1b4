"""A base of the size and layout of Stable Diffusion 1.5, with random weights and a small vocabulary."""

from pathlib import Path
from typing import Any

from controlmill.testing.tiny_sd import byte_pairs, write_bpe

_END = "<|endoftext|>"


def write_sd15(folder: Path) -> Path:
    """Write it as diffusers' own pipeline saves it: UNet 860 M parameters, VAE 84 M, text encoder 85 M."""
    import diffusers
    import torch
    import transformers

    torch.manual_seed(0)
    vocabulary, merges = byte_pairs()
    sd: Any = diffusers
    unet = sd.UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
    )
    vae = sd.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=512,
    )
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            projection_dim=768,
            bos_token_id=vocabulary["<|startoftext|>"],
            eos_token_id=vocabulary[_END],
            pad_token_id=vocabulary[_END],
        )
    )
    tokenizer = transformers.CLIPTokenizer(vocabulary, merges, pad_token=_END, model_max_length=77)
    noise: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    sd.StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler=sd.PNDMScheduler(**noise, steps_offset=1, skip_prk_steps=True, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    write_bpe(folder / "tokenizer")
    return folder
