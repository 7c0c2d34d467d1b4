"""The configuration of everything at once: a dataset from its source, and a ControlNet trained on it."""

from typing import Any, Self

from pydantic import Field, PositiveInt, model_validator

from controlmill.config.base import Options
from controlmill.config.build import BuildConfig
from controlmill.config.engine import EngineOptions
from controlmill.config.evaluate import EvaluateConfig
from controlmill.config.train import TrainConfig
from controlmill.config.training_data import EncodeConfig, EncodeOptions


class TrainPart(TrainConfig):
    """Training as a part of something larger: the dataset need not be named again."""

    train_data_dir: str = Field(default="", min_length=1)
    """The dataset; by default the one that is built."""


class BuildAndTrainConfig(Options):
    """Everything that `controlmill build-and-train` and the flow `build_and_train` take."""

    build: BuildConfig
    """What `controlmill build` takes; incremental_mode extend adds what a source has more than last time."""
    train: TrainPart
    """What `controlmill train` takes; additional_train_steps goes on from the last checkpoint, where there is one."""
    encode: bool = True
    """Encode images and captions once, before training, as `controlmill encode` does."""
    encode_batch_size: PositiveInt = 8
    """Images, and prompts, that are encoded at once."""
    evaluate: bool = False
    """Measure on held-out rows how well the ControlNet is obeyed, once more after training: `controlmill evaluate`."""
    export_cldm: str | None = None
    """File, ending in .safetensors, for the ControlNet as the official code reads it; RUN/controlnet is diffusers'."""

    @model_validator(mode="before")
    @classmethod
    def _one_dataset_and_one_ray(cls, values: Any) -> Any:
        """What both parts take is said once, in `build`."""
        if not isinstance(values, dict):
            return values
        build, train = values.get("build"), values.get("train")
        if not isinstance(build, dict) or not isinstance(train, dict):
            return values
        said = {"train_data_dir": build.get("output_folder"), "ray_address": build.get("ray_address")}
        missing = {name: value for name, value in said.items() if value is not None and not train.get(name)}
        return {**values, "train": {**train, **missing}}

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        build, train = self.build, self.train
        if train.train_data_dir != build.output_folder:
            raise ValueError(f"train.train_data_dir: {train.train_data_dir} is not build.output_folder; leave it out")
        if train.ray_address != build.ray_address:
            raise ValueError("train.ray_address: another one than build.ray_address; leave it out")
        if train.metrics_port is not None:
            raise ValueError("train.metrics_port: one Ray runs all stages; give build.metrics_port")
        absent = [name for name in train.condition if name not in build.annotators]
        if absent:
            raise ValueError(f"train.condition: build.annotators does not make {', '.join(absent)}")
        if build.incremental_mode == "overwrite" and (train.additional_train_steps or train.resume_from_checkpoint):
            raise ValueError("build.incremental_mode: overwrite makes another dataset than the one of the checkpoint")
        if self.export_cldm is not None and not self.export_cldm.endswith(".safetensors"):
            raise ValueError(f"export_cldm: {self.export_cldm} does not end in .safetensors")
        if self.export_cldm is not None and "://" in train.output_dir:
            raise ValueError("export_cldm: needs a train.output_dir on the local disk")
        if self.evaluate and "://" in train.output_dir:
            raise ValueError("evaluate: needs a train.output_dir on the local disk")
        return self

    @property
    def encoding(self) -> EncodeConfig | None:
        """What encoding takes, None where nothing is to be encoded."""
        train = self.train
        if not self.encode or train.cached_layers == "ignore":
            return None
        shared = {name: getattr(train, name) for name in EncodeOptions.model_fields if name != "batch_size"}
        engine = {name: getattr(self.build, name) for name in EngineOptions.model_fields}
        return EncodeConfig(
            output_folder=self.build.output_folder, batch_size=self.encode_batch_size, **shared, **engine
        )

    @property
    def evaluation(self) -> EvaluateConfig | None:
        """What evaluating takes, None where it is not asked for."""
        if not self.evaluate:
            return None
        return EvaluateConfig(controlnet=self.train.output_dir, mixed_precision=self.train.mixed_precision)

    @property
    def engine(self) -> EngineOptions:
        """What starting or joining Ray takes: once for all stages."""
        count = self.build.processes_count
        return self.build.model_copy(update={"processes_count": max(count or 0, self.train.num_workers)})
