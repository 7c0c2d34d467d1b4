"""What one update is: batch, precision, loss, optimizer. Names and defaults follow diffusers' train_controlnet.py."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from controlmill.config.base import Options

Scheduler = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "piecewise_constant"
]


class UpdateOptions(Options):
    """What one update is made of."""

    train_batch_size: PositiveInt = 4
    """Rows that a worker takes at once."""
    gradient_accumulation_steps: PositiveInt = 1
    """Batches of each worker before an update; rows of an update = this x train_batch_size x num_workers."""
    max_train_steps: PositiveInt | None = None
    """Updates in all; overrides num_train_epochs."""
    additional_train_steps: PositiveInt | None = None
    """Updates more than the last checkpoint has, from which it goes on; from none where there is no checkpoint yet."""
    num_train_epochs: PositiveInt = 1
    """Times that the whole dataset is gone through."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Precision of the arithmetic; the trained weights themselves stay float32."""
    gradient_checkpointing: bool = False
    """Compute activations of the ControlNet a second time instead of keeping them: less memory, more time."""
    torch_compile: bool = False
    """Compile the blocks of both networks with torch.compile: slow to start, then faster, mostly on GPUs."""
    allow_tf32: bool = False
    """Let float32 matrix products be rounded to TF32 on GPUs."""
    use_ema: bool = False
    """Keep a moving average of the weights, and export it."""
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)
    """Largest decay of the moving average; it starts low and rises as (1 + updates) / (10 + updates)."""
    sd_locked: bool = True
    """False trains the decoder and the output of the base too, as for the end of a large training."""
    unlock_at_step: NonNegativeInt | None = None
    """Train the decoder and the output of the base too from this update on."""
    decoder_learning_rate: PositiveFloat = 2e-6
    """Learning rate of the base's decoder and output where they are trained."""
    mid_until_step: NonNegativeInt = 0
    """Connect only the middle block until this update, and the decoder's skip connections from then on."""

    @model_validator(mode="after")
    def _one_number_of_updates(self) -> Self:
        if self.additional_train_steps is not None and self.max_train_steps is not None:
            raise ValueError("give max_train_steps (updates in all) or additional_train_steps, not both")
        return self

    @model_validator(mode="after")
    def _decoder_can_be_trained(self) -> Self:
        if not self.sd_locked and self.unlock_at_step is not None:
            raise ValueError("give sd_locked=False (from the start) or unlock_at_step, not both")
        if self.trains_decoder and self.mixed_precision == "fp16":
            raise ValueError("sd_locked=False and unlock_at_step need mixed_precision bf16 or no: fp16 scales the loss")
        return self

    @property
    def trains_decoder(self) -> bool:
        """Whether the base's decoder is trained at some time."""
        return not self.sd_locked or self.unlock_at_step is not None


class OptimizerOptions(Options):
    """AdamW and its learning rate."""

    learning_rate: PositiveFloat = 5e-6
    """Learning rate after the warm-up."""
    scale_lr: bool = False
    """Multiply the learning rate by the rows of an update."""
    lr_scheduler: Scheduler = "constant"
    """How the learning rate changes; diffusers' names."""
    lr_warmup_steps: NonNegativeInt = 500
    """Updates over which the learning rate rises; "constant" and "piecewise_constant" have no warm-up."""
    lr_num_cycles: PositiveInt = 1
    """Restarts of "cosine_with_restarts"."""
    lr_power: PositiveFloat = 1.0
    """Power of "polynomial"."""
    lr_step_rules: str | None = None
    """Factors of "piecewise_constant": "1:10,0.1:20,0.01" is 1 until update 10, 0.1 until 20, then 0.01."""
    use_8bit_adam: bool = False
    """Keep the moments of Adam in 8 bits; needs the package bitsandbytes."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the second moment."""
    adam_weight_decay: NonNegativeFloat = 1e-2
    """Weight decay."""
    adam_epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradients are scaled down to this norm; 0 does not clip."""

    @model_validator(mode="after")
    def _rules_are_there(self) -> Self:
        if (self.lr_scheduler == "piecewise_constant") != (self.lr_step_rules is not None):
            raise ValueError('lr_step_rules: goes with lr_scheduler "piecewise_constant", which needs it')
        return self


class ObjectiveOptions(Options):
    """What is minimised."""

    loss_type: Literal["l2", "huber"] = "l2"
    """Squared error, or pseudo-Huber: squared near zero and linear far from it."""
    huber_c: PositiveFloat = 0.1
    """Where pseudo-Huber goes from squared to linear."""
    snr_gamma: PositiveFloat | None = None
    """Min-SNR weighting, after "Efficient Diffusion Training via Min-SNR Weighting"; the paper takes 5."""
    noise_offset: NonNegativeFloat = 0.0
    """Adds this times one normal number per row and channel to the noise: darker and brighter images can be learned."""
    min_timestep: NonNegativeInt = 0
    """Lowest timestep that is trained."""
    max_timestep: PositiveInt | None = None
    """First timestep that is not trained any more; by default all are."""
    timestep_bias_strategy: Literal["none", "earlier", "later", "range"] = "none"
    """Draw some timesteps more often: the lowest (earlier), the highest (later), or a range."""
    timestep_bias_multiplier: PositiveFloat = 1.0
    """How much more often."""
    timestep_bias_portion: float = Field(default=0.25, gt=0, le=1)
    """Which part of the timesteps is meant by earlier and later."""
    timestep_bias_begin: NonNegativeInt = 0
    """First timestep of the range."""
    timestep_bias_end: PositiveInt = 1000
    """First timestep behind the range."""
    timestep_bias_until: Literal["end", "converged"] = "end"
    """How long min_timestep, max_timestep and the bias hold: to the end, or until the hint is followed, and all
    timesteps are drawn alike from then on."""

    @model_validator(mode="after")
    def _ranges_are_not_empty(self) -> Self:
        if self.max_timestep is not None and self.max_timestep <= self.min_timestep:
            raise ValueError(f"max_timestep: {self.max_timestep} is not above min_timestep {self.min_timestep}")
        if self.timestep_bias_end <= self.timestep_bias_begin:
            raise ValueError(
                f"timestep_bias_end: {self.timestep_bias_end} is not above timestep_bias_begin "
                f"{self.timestep_bias_begin}"
            )
        if self.timestep_bias_until == "converged" and not self.prefers_timesteps:
            raise ValueError(
                "timestep_bias_until: converged needs timesteps that are preferred until then: min_timestep, "
                "max_timestep, or a timestep_bias_strategy with a timestep_bias_multiplier other than 1"
            )
        return self

    @property
    def prefers_timesteps(self) -> bool:
        """Whether some timesteps are drawn more often than others."""
        biased = self.timestep_bias_strategy != "none" and self.timestep_bias_multiplier != 1
        return biased or self.min_timestep > 0 or self.max_timestep is not None
