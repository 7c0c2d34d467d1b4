"""Loading the networks of a base, each complete and frozen, and its text encoders at work.

Shapes: B batch, L tokens, D embedding.
"""

import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from controlmill.errors import WeightsUnusableError
from training.base_files import BaseFiles
from training.batch import PromptEmbeddings

_CLASSES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
_PREDICTIONS = ("epsilon", "v_prediction")


def load_network(files: BaseFiles, folder: str, dtype: torch.dtype) -> Any:
    """UNet or VAE, with no gradients and in evaluation mode.

    Raises:
        WeightsUnusableError: the file holds another network, or more than tensors.
    """
    diffusers: Any = importlib.import_module("diffusers")
    kind = getattr(diffusers, _CLASSES[folder])
    network = _complete(
        lambda: kind.from_pretrained(
            files.folder,
            subfolder=folder,
            variant=files.variant[folder],
            use_safetensors=files.weights[folder].suffix == ".safetensors",
            torch_dtype=dtype,
            low_cpu_mem_usage=False,
            local_files_only=True,
            output_loading_info=True,
        ),
        str(files.weights[folder]),
    )
    if folder == "vae" and dtype == torch.float16 and network.config.force_upcast:
        # SDXL's first VAE overflows in half precision
        network = network.to(torch.float32)
    if folder == "unet":
        _refuse_others(network.config, str(files.weights[folder]))
    return network.eval().requires_grad_(False)


def load_noise_schedule(files: BaseFiles) -> Any:
    """Load a DDPMScheduler with the base's betas and kind of prediction, whatever sampler it comes with.

    Raises:
        WeightsUnusableError: the base predicts something else than noise or v.
    """
    diffusers: Any = importlib.import_module("diffusers")
    with quiet_libraries():
        schedule = diffusers.DDPMScheduler.from_pretrained(files.folder, subfolder="scheduler", local_files_only=True)
    prediction = schedule.config.prediction_type
    if prediction not in _PREDICTIONS:
        raise WeightsUnusableError(
            f"{files.folder}/scheduler: prediction_type is {prediction!r}; bases predict {' or '.join(_PREDICTIONS)}"
        )
    return schedule


class TextEncoders:
    """The text encoders of a base and their tokenizers: one of each, SDXL two."""

    def __init__(self, files: BaseFiles, dtype: torch.dtype) -> None:
        transformers: Any = importlib.import_module("transformers")
        self._is_xl = files.kind == "sdxl"
        self.tokenizers: list[Any] = []
        self.encoders = nn.ModuleList()
        for encoder, tokenizer in files.text_folders:
            place = str(files.folder / tokenizer)
            with quiet_libraries():
                self.tokenizers.append(_read(partial(transformers.CLIPTokenizer.from_pretrained, place), place))
            kind = transformers.CLIPTextModelWithProjection if encoder.endswith("_2") else transformers.CLIPTextModel
            self.encoders.append(self._load(kind, files, encoder, dtype))
        self.encoders.eval().requires_grad_(False)

    @staticmethod
    def _load(kind: Any, files: BaseFiles, folder: str, dtype: torch.dtype) -> Any:
        return _complete(
            lambda: kind.from_pretrained(
                files.folder / folder,
                variant=files.variant[folder],
                use_safetensors=files.weights[folder].suffix == ".safetensors",
                dtype=dtype,
                local_files_only=True,
                output_loading_info=True,
            ),
            str(files.weights[folder]),
        )

    def to(self, device: torch.device | str) -> "TextEncoders":
        """Move the encoders."""
        self.encoders.to(device)
        return self

    @property
    def max_length(self) -> int:
        """Tokens of a prompt, start and end counted."""
        return min(int(tokenizer.model_max_length) for tokenizer in self.tokenizers)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> PromptEmbeddings:
        """Embeddings of prompts, float32.

        SD takes the last hidden state of its encoder (SD 2's file ends one layer early); SDXL the last but one of both,
        side by side, and the projection of the second.
        """
        hidden: list[Tensor] = []
        pooled_BD: Tensor | None = None
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            output = self._one(tokenizer, encoder, prompts)
            hidden.append((output.hidden_states[-2] if self._is_xl else output.last_hidden_state).float())
            pooled_BD = output.text_embeds.float() if self._is_xl and "text_embeds" in output else pooled_BD
        return PromptEmbeddings(torch.cat(hidden, dim=-1), pooled_BD)

    def _one(self, tokenizer: Any, encoder: Any, prompts: Sequence[str]) -> Any:
        tokens = tokenizer(
            list(prompts), padding="max_length", max_length=self.max_length, truncation=True, return_tensors="pt"
        )
        device = next(encoder.parameters()).device
        mask = tokens.attention_mask.to(device) if getattr(encoder.config, "use_attention_mask", False) else None
        return encoder(tokens.input_ids.to(device), attention_mask=mask, output_hidden_states=self._is_xl)


def _complete(load: Callable[[], tuple[Any, dict[str, Any]]], place: str) -> Any:
    """The network of a `from_pretrained` with loading info; diffusers and transformers only warn of missing tensors."""
    with quiet_libraries():
        network, info = _read(load, place)
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if info.get(problem):
            names = ", ".join(sorted(str(one) for one in info[problem])[:3])
            raise WeightsUnusableError(
                f"weights: {place} does not fit the config.json beside it: {problem.partition('_')[0]} {names}"
            )
    return network


def _read(load: Callable[[], Any], place: str) -> Any:
    try:
        return load()
    except Exception as error:  # the edge to two libraries, which raise anything for a bad file
        raise WeightsUnusableError(
            f"weights: cannot load {place}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error


def _refuse_others(config: Any, place: str) -> None:
    """UNets with inputs that neither ControlNets nor this training know."""
    strange = {
        "encoder_hid_dim_type": config.encoder_hid_dim_type,
        "class_embed_type": config.class_embed_type,
        "time_cond_proj_dim": config.time_cond_proj_dim,
        "addition_embed_type": config.addition_embed_type if config.addition_embed_type != "text_time" else None,
        "in_channels": config.in_channels if config.in_channels != config.out_channels else None,
    }
    found = ", ".join(f"{name} {value}" for name, value in strange.items() if value is not None)
    if found:
        raise WeightsUnusableError(
            f"weights: {place} is a UNet with {found}; bases are text-to-image UNets of Stable Diffusion 1.x, 2.x, XL"
        )


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars and no advice of diffusers and transformers; what matters is checked here."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    before = [logger.level for logger in loggers]
    bars = [importlib.import_module(f"{name}.utils.logging") for name in ("diffusers", "transformers")]
    try:
        for logger, bar in zip(loggers, bars, strict=True):
            logger.setLevel(logging.ERROR)
            bar.disable_progress_bar()
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
