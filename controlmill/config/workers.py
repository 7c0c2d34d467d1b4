"""Where training runs, and how memory is divided there."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from controlmill.config.base import Options


class WorkerOptions(Options):
    """Where training runs."""

    num_workers: PositiveInt = 1
    """Processes that train together, each on a GPU of its own with use_gpu, else on a CPU."""
    use_gpu: bool | None = None
    """Train on GPUs; by default where this machine has one."""
    ray_address: str | None = None
    """Ray cluster to train on: host:port, ray://host:port, auto; by default a Ray of this run's own, ended with it."""
    metrics_port: int | None = Field(default=None, ge=1, le=65_535)
    """Port on loopback where Prometheus finds the metrics of a Ray of this run's own; by default there are none."""
    max_failures: NonNegativeInt = 3
    """How often training goes on from its last checkpoint after a worker or a node died."""


class ZeroOptions(Options):
    """How DeepSpeed divides the ControlNet over the workers."""

    zero_stage: int = Field(default=0, ge=0, le=3)
    """What the workers share: 0 nothing, 1 the optimizer's moments, 2 also gradients, 3 also weights."""
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Where the optimizer's moments are kept instead of on the GPU; nvme needs zero_stage 3."""
    offload_folder: str | None = None
    """Folder on a fast disk of each machine for offload_optimizer nvme."""
    deepspeed: str | None = None
    """A DeepSpeed configuration (.json) that is laid over the one made from the options; what it changes is said."""

    @model_validator(mode="after")
    def _offload_is_possible(self) -> Self:
        if self.offload_optimizer == "cpu" and self.zero_stage == 0:
            raise ValueError("offload_optimizer: cpu needs zero_stage 1, 2 or 3 (got zero_stage 0)")
        if self.offload_optimizer == "nvme" and self.zero_stage != 3:
            raise ValueError(f"offload_optimizer: nvme needs zero_stage 3 (got {self.zero_stage})")
        if (self.offload_optimizer == "nvme") != (self.offload_folder is not None):
            raise ValueError("offload_folder: goes with offload_optimizer nvme, which needs it")
        return self


class RunOptions(Options):
    """What is written, and when."""

    output_dir: str = Field(default="controlnet-model", min_length=1)
    """Folder of the run, local path or fsspec URI: checkpoints, metrics, and the ControlNet at its end."""
    seed: int = 0
    """Seed of everything that is drawn."""
    checkpointing_steps: PositiveInt = 500
    """Updates between two checkpoints."""
    checkpoints_total_limit: PositiveInt | None = None
    """Older checkpoints are deleted beyond this number; those that an event asked to keep are not counted."""
    resume_from_checkpoint: str | None = None
    """Go on from a checkpoint: latest, or its folder."""
    report_to: tuple[Literal["tensorboard", "wandb", "none", "all"], ...] = ("tensorboard",)
    """Where metrics go beside RUN/metrics.jsonl."""
    logging_dir: str = "logs"
    """Folder of the TensorBoard files, in output_dir."""
    tracker_project_name: str = "train_controlnet"
    """Project of wandb."""
    log_steps: PositiveInt = 50
    """Updates between two lines with the loss by timestep range."""
    preflight: bool = True
    """Check data, hints, gradients and memory before the first update."""
