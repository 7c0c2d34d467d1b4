"""Where the work runs."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from controlmill.config.base import Options


class EngineOptions(Options):
    """Where the work runs."""

    processes_count: PositiveInt | None = None
    """Shards worked on in parallel; by default one per CPU of the Ray cluster."""
    ray_address: str | None = None
    """Ray cluster to run on: host:port, ray://host:port or auto; by default a Ray of this run's own, ended with it."""
    max_shard_retry: NonNegativeInt = 1
    """How often a shard is started again after its worker died."""
    metrics_port: int | None = Field(default=None, ge=1, le=65_535)
    """Port on loopback where Prometheus finds the metrics of a Ray of this run's own; by default there are none."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks run; auto takes GPUs where the Ray cluster has some."""
    num_gpus: PositiveFloat | None = None
    """GPUs of each copy of a network; 0.5 puts two copies on one GPU. By default what the network says, or less."""
    num_actors: PositiveInt | None = None
    """Copies of each network at work, each in a process of its own; by default as many as GPUs or CPUs allow."""

    @field_validator("num_gpus")
    @classmethod
    def _whole_above_one(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value % 1:
            raise ValueError("above 1 it must be a whole number")
        return value
