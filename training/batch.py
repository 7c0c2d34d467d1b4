"""What the reader hands to the loop: one micro-batch of one rank.

Shapes: B batch, C channels, H W latent height and width, L tokens, D embedding, T numbers of a time id. Pixels and
hints are 8 times as high and wide as latents.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

PIXELS_PER_LATENT = 8
"""Pixels along each side of one latent: the VAE factor of every Stable Diffusion."""


@dataclass(frozen=True, slots=True)
class PromptEmbeddings:
    """What the base's text encoders make of the prompts of a batch."""

    hidden_BLD: Tensor
    """Hidden states of all tokens; both encoders' side by side for SDXL."""
    pooled_BD: Tensor | None = None
    """Pooled projection, SDXL only."""

    def to(self, device: torch.device | str) -> "PromptEmbeddings":
        """The same on a device; the copy does not block where the memory is pinned."""
        return PromptEmbeddings(
            self.hidden_BLD.to(device, non_blocking=True),
            None if self.pooled_BD is None else self.pooled_BD.to(device, non_blocking=True),
        )

    def pin_memory(self) -> "PromptEmbeddings":
        """The same in page-locked memory."""
        return PromptEmbeddings(
            self.hidden_BLD.pin_memory(), None if self.pooled_BD is None else self.pooled_BD.pin_memory()
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch of one rank, on the CPU, in pinned memory where a GPU is used."""

    keys: tuple[str, ...]
    epochs: tuple[int, ...]
    """Epoch of each row: a batch that begins with the last rows of an epoch goes on with the first of the next."""
    maps: tuple[Tensor, ...]
    """What hints are made of, one (B, 1 or 3, 8H, 8W) per condition: uint8 as it is stored, or float32 in [0, 1]."""
    prompts: tuple[str, ...]
    """Empty where the prompt was dropped."""
    pixels_BCHW: Tensor | None = None
    """(B, 3, 8H, 8W) float32 in [-1, 1]; None where latents are cached."""
    latent_mean_BCHW: Tensor | None = None
    """Mean of the VAE's posterior, not scaled, float32 that were stored as float16; None where it is not cached."""
    latent_std_BCHW: Tensor | None = None
    """Standard deviation of the same."""
    embeddings: PromptEmbeddings | None = None
    """Those of `prompts`, float32 that were stored as float16; None where they are not cached."""
    time_ids_BT: Tensor | None = None
    """SDXL: original height and width, top and left of the crop, target height and width; float32."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def hints(self) -> tuple[Tensor, ...]:
        """One (B, 3, 8H, 8W) float32 in [0, 1] per condition, made at each call where the maps are.

        A Canny map travels to a GPU in a twelfth of the bytes of its hint.
        """
        return tuple(to_hint(map_BCHW) for map_BCHW in self.maps)

    @property
    def epoch(self) -> int:
        """The epoch of the first row."""
        return self.epochs[0]

    def to(self, device: torch.device | str) -> "Batch":
        """The same on a device; the copies do not block where the memory is pinned."""
        return self._map(lambda value: value.to(device, non_blocking=True), lambda value: value.to(device))

    def pin_memory(self) -> "Batch":
        """The same in page-locked memory, from which a GPU copies without waiting."""
        return self._map(lambda value: value.pin_memory(), lambda value: value.pin_memory())

    def _map(
        self, of_tensor: Callable[[Tensor], Tensor], of_embeddings: Callable[[PromptEmbeddings], PromptEmbeddings]
    ) -> "Batch":
        changed: dict[str, object] = {"maps": tuple(of_tensor(map_BCHW) for map_BCHW in self.maps)}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                changed[field.name] = of_tensor(value)
        if self.embeddings is not None:
            changed["embeddings"] = of_embeddings(self.embeddings)
        return replace(self, **changed)  # type: ignore[arg-type]


def to_hint(map_BCHW: Tensor) -> Tensor:
    """A map, uint8 or float32 in [0, 1], of one or three channels, as (B, 3, H, W) float32 in [0, 1]."""
    hint_BCHW = map_BCHW.to(torch.float32)
    if map_BCHW.dtype == torch.uint8:
        hint_BCHW = hint_BCHW.div_(255)
    return hint_BCHW.expand(-1, 3, -1, -1).contiguous()


def to_unit_range(pixels_BHWC: Tensor) -> Tensor:
    """Pixels uint8 (B, H, W, 3) as (B, 3, H, W) float32 in [-1, 1].

    The arithmetic is that of torchvision's ToTensor and Normalize([0.5], [0.5]), to the bit: diffusers' scripts use it.
    """
    pixels_BCHW = pixels_BHWC.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return pixels_BCHW.div_(255).sub_(0.5).div_(0.5)


def to_half(values: Tensor) -> Tensor:
    """Values as cached layers hold them: float16 on the CPU, what is too large at its largest number."""
    largest = torch.finfo(torch.float16).max
    return values.detach().to("cpu", torch.float32).clamp(-largest, largest).to(torch.float16)


def to_blob(values: Tensor) -> bytes:
    """The bytes of a tensor in a cached layer, in the order of its dimensions, little-endian."""
    blob: bytes = to_half(values).contiguous().numpy().astype("<f2", copy=False).tobytes()
    return blob


def as_stored(values: Tensor) -> Tensor:
    """What reading gives back of values that a cached layer holds: rounded to float16, as float32.

    What is encoded during training goes through here too, so that a run gives the same numbers with and without cache.
    """
    largest = torch.finfo(torch.float16).max
    return values.to(torch.float32).clamp(-largest, largest).to(torch.float16).to(torch.float32)
