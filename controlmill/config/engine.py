"""Where the work runs."""

from pydantic import NonNegativeInt, PositiveInt

from controlmill.config.base import Options


class EngineOptions(Options):
    """Where the work runs."""

    processes_count: PositiveInt | None = None
    """Shards worked on in parallel; by default one per CPU of the Ray cluster."""
    ray_address: str | None = None
    """Ray cluster to run on: host:port, ray://host:port or auto; by default a Ray of this run's own, ended with it."""
    max_shard_retry: NonNegativeInt = 1
    """How often a shard is started again after its worker died."""
