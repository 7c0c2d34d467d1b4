"""The base: a Stable Diffusion in diffusers' layout, frozen for real, its decoder open to residuals from the side.

Shapes: B batch, C channels, H W height and width (of latents, of pixels 8 times as large), L tokens, D embedding,
T the numbers that tell SDXL of sizes and crops.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from controlmill.errors import ConfigError, WeightsUnusableError
from training.base_files import ALL_PARTS, BaseFiles, Kind, Part, find_base
from training.base_parts import TextEncoders, load_network, load_noise_schedule
from training.batch import PromptEmbeddings


class Residuals(NamedTuple):
    """What ControlNets give to the decoder of the base."""

    down: tuple[Tensor, ...]
    """One (B, C, H, W) per skip connection, finest level first; empty where the decoder is not connected."""
    middle: Tensor
    """Added to the output of the middle block."""

    def scaled(self, scales: Sequence[float]) -> "Residuals":
        """Each times a factor: one per skip connection and, last, that of the middle; one factor stands for all."""
        each = list(scales) if len(scales) > 1 else list(scales) * (len(self.down) + 1)
        if self.down and len(each) != len(self.down) + 1:
            raise ValueError(f"{len(each)} scales for {len(self.down) + 1} residuals")
        down = tuple(value * scale for value, scale in zip(self.down, each, strict=False))
        return Residuals(down, self.middle * each[-1])

    def added(self, other: "Residuals") -> "Residuals":
        """The sum of two, as several ControlNets act together."""
        if bool(self.down) != bool(other.down):
            return Residuals(self.down or other.down, self.middle + other.middle)
        down = tuple(one + two for one, two in zip(self.down, other.down, strict=True))
        return Residuals(down, self.middle + other.middle)


class Encoded(NamedTuple):
    """What the base's encoder and middle block make of a noisy batch; good for any residuals."""

    skips: tuple[Tensor, ...]
    middle: Tensor
    time_BD: Tensor
    hidden_BLD: Tensor


class BaseModel:
    """The frozen base. Parts that were not asked for are None; only a decoder that was unlocked has gradients."""

    def __init__(
        self,
        files: BaseFiles,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
        encoder_dtype: torch.dtype | None = None,
    ) -> None:
        self.files = files
        self.folder = files.folder
        self.kind: Kind = files.kind
        self.device = torch.device(device)
        self.dtype = dtype
        self.encoder_dtype = encoder_dtype or dtype
        """Of VAE and text encoders."""
        self.vae_scale = 8
        self.unet: Any = None
        self.vae: Any = None
        self.text: TextEncoders | None = None
        self.schedule = load_noise_schedule(files)
        self.prediction_type: str = self.schedule.config.prediction_type
        self.num_train_timesteps: int = self.schedule.config.num_train_timesteps
        self._fingerprint: str | None = None

    @classmethod
    def load(
        cls,
        reference: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        encoder_dtype: torch.dtype | None = None,
        parts: Collection[Part] = ALL_PARTS,
        revision: str | None = None,
        variant: str | None = None,
    ) -> "BaseModel":
        """Load parts of a base.

        Args:
            reference: a folder, or owner/name or owner/name@revision on the hub.
            device: where its networks go.
            dtype: of their weights; a VAE that needs float32 keeps it.
            encoder_dtype: of VAE and text encoders, where it is another.
            parts: what is loaded; the files of all are looked for, since the fingerprint is over them.
            revision: commit, branch or tag on the hub.
            variant: kind of the files of weights ("fp16").

        Raises:
            WeightsMissingError: naming the files that are not there.
            WeightsUnusableError: a file holds something else.
        """
        files = find_base(reference, revision=revision, variant=variant)
        base = cls(files, device=device, dtype=dtype, encoder_dtype=encoder_dtype)
        for part in parts:
            setattr(base, part, base._loaded(part))
        return base

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the files of VAE, text encoders and tokenizers: what cached latents and embeddings belong to."""
        if self._fingerprint is None:
            self._fingerprint = self.files.fingerprint()
        return self._fingerprint

    @property
    def alphas_cumprod(self) -> Tensor:
        """Share of the signal at each timestep, (num_train_timesteps,)."""
        alphas: Tensor = self.schedule.alphas_cumprod
        return alphas

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return int((self.unet.config.in_channels) if self.unet is not None else self.vae.config.latent_channels)

    # pixels and latents

    @torch.no_grad()
    def encode_pixels(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the VAE's posterior of pixels in [-1, 1], not scaled, float32."""
        pixels_BCHW = pixels_BCHW.to(self.device, self.vae.dtype)
        posterior = self.vae.encode(pixels_BCHW, return_dict=False)[0]
        return posterior.mean.float(), posterior.std.float()

    def sample_latents(self, mean_BCHW: Tensor, std_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
        """A latent of the posterior, scaled to what the UNet expects (by 0.18215 for SD 1.x and 2.x)."""
        return (mean_BCHW + std_BCHW * noise_BCHW) * self._scaling_factor

    @torch.no_grad()
    def decode_latents(self, latents_BCHW: Tensor) -> Tensor:
        """Pixels in [-1, 1] of scaled latents, float32."""
        latents_BCHW = latents_BCHW.to(self.device, self.vae.dtype) / self._scaling_factor
        pixels_BCHW: Tensor = self.vae.decode(latents_BCHW, return_dict=False)[0]
        return pixels_BCHW.float().clamp(-1, 1)

    @property
    def _scaling_factor(self) -> float:
        if self.vae is not None:
            return float(self.vae.config.scaling_factor)
        return self.files.scaling_factor()

    def encode_prompts(self, prompts: Sequence[str]) -> PromptEmbeddings:
        """Embeddings of prompts, float32, as diffusers' pipelines make them; long ones are cut."""
        if self.text is None:
            raise ConfigError(f"{self.files.reference}: the text encoders were not loaded")
        return self.text.encode(prompts)

    # noise

    def add_noise(self, latents_BCHW: Tensor, noise_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
        """Latents at these timesteps."""
        noisy_BCHW: Tensor = self.schedule.add_noise(latents_BCHW, noise_BCHW, timesteps_B)
        return noisy_BCHW

    def target(self, latents_BCHW: Tensor, noise_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
        """What the UNet is to predict: the noise, or v = sqrt(a) noise - sqrt(1 - a) latents."""
        if self.prediction_type == "epsilon":
            return noise_BCHW
        velocity_BCHW: Tensor = self.schedule.get_velocity(latents_BCHW, noise_BCHW, timesteps_B)
        return velocity_BCHW

    # the UNet

    def predict(
        self,
        noisy_BCHW: Tensor,
        timesteps_B: Tensor,
        prompts: PromptEmbeddings,
        residuals: Residuals | None = None,
        time_ids_BT: Tensor | None = None,
    ) -> Tensor:
        """What the base predicts, float32; gradients go through the decoder into `residuals`, nowhere else."""
        return self.decode(self.encode(noisy_BCHW, timesteps_B, prompts, time_ids_BT), residuals)

    @torch.no_grad()
    def encode(
        self, noisy_BCHW: Tensor, timesteps_B: Tensor, prompts: PromptEmbeddings, time_ids_BT: Tensor | None = None
    ) -> Encoded:
        """Run encoder and middle block, without gradients."""
        unet = self.unet
        sample_BCHW = noisy_BCHW.to(self.device, unet.dtype)
        hidden_BLD = prompts.hidden_BLD.to(self.device, unet.dtype)
        added = added_conditions(prompts, time_ids_BT, self.device, unet.dtype)
        time_BD = unet.time_embedding(unet.get_time_embed(sample=sample_BCHW, timestep=timesteps_B.to(self.device)))
        sizes_BD = unet.get_aug_embed(emb=time_BD, encoder_hidden_states=hidden_BLD, added_cond_kwargs=added)
        time_BD = time_BD if sizes_BD is None else time_BD + sizes_BD
        sample_BCHW = unet.conv_in(sample_BCHW)
        skips: tuple[Tensor, ...] = (sample_BCHW,)
        for block in unet.down_blocks:
            sample_BCHW, more = block(sample_BCHW, time_BD, **_attending(block, hidden_BLD))
            skips += tuple(more)
        middle_BCHW = unet.mid_block(sample_BCHW, time_BD, **_attending(unet.mid_block, hidden_BLD))
        return Encoded(skips, middle_BCHW, time_BD, hidden_BLD)

    def decode(self, encoded: Encoded, residuals: Residuals | None = None) -> Tensor:
        """Run the decoder on what `encode` gave, with the residuals added, and return the prediction in float32."""
        unet, skips, sample_BCHW = self.unet, encoded.skips, encoded.middle
        if residuals is not None:
            sample_BCHW = sample_BCHW + residuals.middle.to(sample_BCHW.dtype)
            if residuals.down:
                pairs = zip(skips, residuals.down, strict=True)
                skips = tuple(skip + residual.to(skip.dtype) for skip, residual in pairs)
        # where a level had an odd side, its size cannot be told from the one below
        odd = any(side % 2**unet.num_upsamplers for side in skips[0].shape[-2:])
        for block in unet.up_blocks:
            num_skips = len(block.resnets)
            skips, own = skips[:-num_skips], skips[-num_skips:]
            sample_BCHW = block(
                hidden_states=sample_BCHW,
                temb=encoded.time_BD,
                res_hidden_states_tuple=own,
                upsample_size=skips[-1].shape[2:] if odd and skips else None,
                **_attending(block, encoded.hidden_BLD),
            )
        prediction_BCHW: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(sample_BCHW)))
        return prediction_BCHW.float()

    # the decoder, where it is trained too

    def decoder_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of decoder and output by name; what sd_locked=False trains, never those of the encoder."""
        prefixes = ("up_blocks.", "conv_norm_out.", "conv_out.")
        return {name: value for name, value in self.unet.named_parameters() if name.startswith(prefixes)}

    def unlock_decoder(self) -> dict[str, nn.Parameter]:
        """Let gradients into decoder and output from now on; returns their parameters."""
        parameters = self.decoder_parameters()
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        return parameters

    # memory

    @contextlib.contextmanager
    def borrowed(self, *parts: Part) -> Iterator[None]:
        """Have these parts within the `with` block; those that were not loaded are let go of after it."""
        missing = [part for part in parts if getattr(self, part) is None]
        for part in missing:
            setattr(self, part, self._loaded(part))
        try:
            yield
        finally:
            for part in missing:
                setattr(self, part, None)

    def _loaded(self, part: Part) -> Any:
        if part == "text":
            return TextEncoders(self.files, self.encoder_dtype).to(self.device)
        dtype = self.dtype if part == "unet" else self.encoder_dtype
        return load_network(self.files, part, dtype).to(self.device)

    @contextlib.contextmanager
    def only_inside(self, part: Part, device: torch.device | str) -> Iterator[None]:
        """Have one part on a device within the `with` block, and on the CPU after it."""
        module = {"unet": self.unet, "vae": self.vae, "text": self.text}[part]
        before, self.device = self.device, torch.device(device)
        module.to(device)
        try:
            yield
        finally:
            self.device = before
            module.to("cpu")


def added_conditions(
    prompts: PromptEmbeddings, time_ids_BT: Tensor | None, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor] | None:
    """What diffusers calls `added_cond_kwargs`: SDXL's pooled prompt and sizes; None for SD 1.x and 2.x.

    Raises:
        WeightsUnusableError: the pooled prompt comes without sizes.
    """
    if prompts.pooled_BD is None:
        return None
    if time_ids_BT is None:
        raise WeightsUnusableError("SDXL needs time_ids: original size, crop and target size of each image")
    return {"text_embeds": prompts.pooled_BD.to(device, dtype), "time_ids": time_ids_BT.to(device)}


def _attending(block: Any, hidden_BLD: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": hidden_BLD} if getattr(block, "has_cross_attention", False) else {}
