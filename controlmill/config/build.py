"""The configuration of each dataset command: groups of options put together."""

from typing import Self

from pydantic import Field, model_validator

from controlmill.config.base import Options
from controlmill.config.caption import CaptionerOptions, CaptionOptions
from controlmill.config.engine import EngineOptions
from controlmill.config.image import ImageOptions
from controlmill.config.layers import LayerOptions
from controlmill.config.pull import PullOptions
from controlmill.config.source import SourceOptions
from controlmill.reasons import OF_LAYERS, Reason


class DatasetOptions(Options):
    """Where the dataset is."""

    output_folder: str = Field(min_length=1)
    """The dataset: a folder, local path or fsspec URI."""


class ShardOptions(PullOptions, ImageOptions, LayerOptions):
    """Everything that making one planned shard takes."""


class BuildConfig(DatasetOptions, SourceOptions, ShardOptions, CaptionerOptions, EngineOptions):
    """Everything that `controlmill build` and the flow `build_dataset` take."""


class AnnotateConfig(DatasetOptions, LayerOptions, EngineOptions):
    """Everything that `controlmill annotate` and the flow `annotate_dataset` take."""

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.annotators:
            raise ValueError("annotators: name at least one, as in --annotators canny")
        return self


class CaptionConfig(DatasetOptions, CaptionOptions, EngineOptions):
    """Everything that `controlmill caption` and the flow `caption_dataset` take."""


class RetryConfig(DatasetOptions, PullOptions, EngineOptions):
    """Everything that `controlmill retry` takes; layers are made as the dataset's were."""

    reason: tuple[Reason, ...] = Field(min_length=1)
    """Reasons whose rows are pulled again, into new shards."""

    @model_validator(mode="after")
    def _of_images(self) -> Self:
        for reason in self.reason:
            if reason in OF_LAYERS:
                raise ValueError(
                    f"reason: {reason.value} is why a layer lacks something of an image that is there; to make the "
                    f"layer again, delete its folder in the dataset and run `controlmill {OF_LAYERS[reason]}`"
                )
        return self
