"""Stable Diffusion in small: bases of random weights from a seed, in diffusers' layout, saved by its own pipelines.

Nothing is downloaded. The networks have the parts of the real ones (four levels, twelve skip connections, a VAE of
factor 8, CLIP's byte-pair tokenizer and text encoders) and some ten thousandths of their size.
"""

import importlib
import itertools
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

Kind = Literal["sd1", "sd2", "sdxl"]
"""As SD 1.5 (predicts noise), SD 2.1 (predicts v, linear projections), SDXL (two text encoders, size embeddings)."""

WORDS = "a red green blue yellow magenta cyan white black disc on background picture of with and photo best quality"
"""Words that are one token each."""
_START, _END = "<|startoftext|>", "<|endoftext|>"
_TEXT_WIDTH, _TIME_WIDTH, _NUM_TIME_IDS = 32, 8, 6


def write_tiny_sd(
    folder: Path,
    kind: Kind = "sd1",
    seed: int = 0,
    *,
    unet_widths: Sequence[int] | None = None,
    vae_widths: Sequence[int] = (8, 8, 16, 16),
    max_length: int = 77,
) -> Path:
    """Write a base into `folder`, unless one is there; returns the folder.

    Args:
        folder: where `model_index.json` and the folders of the parts go.
        kind: which Stable Diffusion it resembles.
        seed: of the weights.
        unet_widths: channels of the UNet's levels; (16, 32, 32, 32), of SDXL (16, 32, 32).
        vae_widths: channels of the VAE's four levels.
        max_length: tokens of a prompt, padding counted.
    """
    import torch

    if (folder / "model_index.json").is_file():
        return folder
    widths = tuple(unet_widths or ((16, 32, 32) if kind == "sdxl" else (16, 32, 32, 32)))
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        pipeline = _pipeline(kind, widths, tuple(vae_widths), max_length)
        pipeline.save_pretrained(folder)
    for name in ("tokenizer", "tokenizer_2") if kind == "sdxl" else ("tokenizer",):
        write_bpe(folder / name)
    return folder


def _pipeline(kind: Kind, widths: tuple[int, ...], vae_widths: tuple[int, ...], max_length: int) -> Any:
    diffusers = _library("diffusers")
    unet = diffusers.UNet2DConditionModel(**_unet_config(kind, widths))
    vae = diffusers.AutoencoderKL(**_vae_config(kind, vae_widths))
    text = {"text_encoder": _text_encoder(max_length), "tokenizer": _tokenizer(max_length, _END)}
    if kind == "sdxl":
        return diffusers.StableDiffusionXLPipeline(
            vae=vae,
            unet=unet,
            scheduler=_scheduler(kind),
            **text,
            text_encoder_2=_text_encoder(max_length, with_projection=True),
            tokenizer_2=_tokenizer(max_length, "!"),
            add_watermarker=False,
        )
    return diffusers.StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        scheduler=_scheduler(kind),
        **text,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _unet_config(kind: Kind, widths: tuple[int, ...]) -> dict[str, Any]:
    """As published, but for the widths; `attention_head_dim` is what diffusers calls the number of heads."""
    num_levels = len(widths)
    with_attention = ["CrossAttnDownBlock2D"] * (num_levels - 1)
    down = ["DownBlock2D", *with_attention] if kind == "sdxl" else [*with_attention, "DownBlock2D"]
    config: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": widths,
        "down_block_types": tuple(down),
        "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(down)),
        "cross_attention_dim": _TEXT_WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    if kind == "sd2":
        config |= {"attention_head_dim": (1,) + (2,) * (num_levels - 1), "use_linear_projection": True}
    if kind == "sdxl":
        config |= {
            "attention_head_dim": (1,) + (2,) * (num_levels - 1),
            "use_linear_projection": True,
            "cross_attention_dim": 2 * _TEXT_WIDTH,
            "transformer_layers_per_block": (1,) * (num_levels - 1) + (2,),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": _TIME_WIDTH,
            "projection_class_embeddings_input_dim": _TEXT_WIDTH + _NUM_TIME_IDS * _TIME_WIDTH,
        }
    return config


def _vae_config(kind: Kind, widths: tuple[int, ...]) -> dict[str, Any]:
    return {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 4,
        "sample_size": 64,
        "scaling_factor": 0.13025 if kind == "sdxl" else 0.18215,
    }


def _scheduler(kind: Kind) -> Any:
    diffusers = _library("diffusers")
    noise = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    if kind == "sd1":
        return diffusers.PNDMScheduler(**noise, skip_prk_steps=True, set_alpha_to_one=False)
    if kind == "sd2":
        return diffusers.DDIMScheduler(
            **noise, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False
        )
    return diffusers.EulerDiscreteScheduler(**noise)


def _text_encoder(max_length: int, *, with_projection: bool = False) -> Any:
    transformers = _library("transformers")
    vocabulary, _ = byte_pairs()
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=_TEXT_WIDTH,
        intermediate_size=2 * _TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=max_length,
        projection_dim=_TEXT_WIDTH,
        bos_token_id=vocabulary[_START],
        eos_token_id=vocabulary[_END],
        pad_token_id=vocabulary[_END],
    )
    kind = transformers.CLIPTextModelWithProjection if with_projection else transformers.CLIPTextModel
    return kind(config)


def _tokenizer(max_length: int, padding: str) -> Any:
    vocabulary, merges = byte_pairs()
    return _library("transformers").CLIPTokenizer(vocabulary, merges, pad_token=padding, model_max_length=max_length)


def byte_pairs() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary in small: every byte, alone and at the end of a word, and the merges that make up `WORDS`."""
    letters = _byte_letters()
    words = [[*word[:-1], f"{word[-1]}</w>"] for word in WORDS.split()]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in words for pair in itertools.pairwise(word)):
        # the most frequent pair, then the first by its letters: the same everywhere
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = [_merged(word, best) for word in words]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), _START, _END]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}, merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    parts: list[str] = []
    for part in word:
        if parts and (parts[-1], part) == pair:
            parts[-1] += part
        else:
            parts.append(part)
    return parts


def _byte_letters() -> list[str]:
    """One printable letter for each of the 256 bytes, as GPT-2's and CLIP's tokenizers have them; "!" comes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]


def write_bpe(folder: Path) -> None:
    """The two files of the published tokenizers; transformers 5 writes only its own `tokenizer.json`."""
    vocabulary, merges = byte_pairs()
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, no advice on configurations."""
    for name in ("diffusers", "transformers"):
        _library(name).utils.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _library(name: str) -> Any:
    """A library most of whose functions have no types."""
    return importlib.import_module(name)
