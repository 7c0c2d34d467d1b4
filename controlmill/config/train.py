"""The configuration of `controlmill train`: groups of options put together."""

from typing import Self

from pydantic import model_validator

from controlmill.config.controllability import ControllabilityOptions
from controlmill.config.convergence import ConvergenceOptions
from controlmill.config.engine import EngineOptions
from controlmill.config.model import ModelOptions
from controlmill.config.training_data import TrainingDataOptions
from controlmill.config.update import ObjectiveOptions, OptimizerOptions, UpdateOptions
from controlmill.config.workers import RunOptions, WorkerOptions, ZeroOptions


class TrainConfig(
    TrainingDataOptions,
    ModelOptions,
    RunOptions,
    UpdateOptions,
    OptimizerOptions,
    ObjectiveOptions,
    WorkerOptions,
    ZeroOptions,
    ConvergenceOptions,
    ControllabilityOptions,
):
    """Everything that `controlmill train`, `controlmill preflight` and the flow `train_controlnet` take."""

    @model_validator(mode="after")
    def _what_waits_can_come(self) -> Self:
        if self.timestep_bias_until == "converged" and not self.num_probe_rows:
            raise ValueError("timestep_bias_until: converged needs a probe that sees it; give num_probe_rows, say 32")
        return self

    @model_validator(mode="after")
    def _adds_to_the_last_checkpoint(self) -> Self:
        if self.additional_train_steps is not None and self.resume_from_checkpoint not in (None, "latest"):
            raise ValueError(
                "resume_from_checkpoint: additional_train_steps goes on from the latest checkpoint "
                f"(got {self.resume_from_checkpoint})"
            )
        return self

    @property
    def rows_per_update(self) -> int:
        """Rows of one update, over all workers."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.num_workers

    def updates_of_epochs(self, samples_per_epoch: int) -> int:
        """Updates that `num_train_epochs` take, the last one perhaps with rows of the epoch after."""
        return max(1, -(-self.num_train_epochs * samples_per_epoch // self.rows_per_update))

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after the warm-up, `scale_lr` taken into account."""
        return self.learning_rate * (self.rows_per_update if self.scale_lr else 1)

    @property
    def engine(self) -> EngineOptions:
        """What starting or joining Ray takes of the options."""
        return EngineOptions(
            ray_address=self.ray_address, metrics_port=self.metrics_port, processes_count=self.num_workers
        )
