"""The one source of configuration: command line, YAML files, Prefect parameters and reference docs come from here."""

from controlmill.config.base import Options, load_yaml, parse_overrides, unknown_option, validate
from controlmill.config.build import AnnotateConfig, BuildConfig, CaptionConfig, RetryConfig, ShardOptions
from controlmill.config.build_and_train import BuildAndTrainConfig
from controlmill.config.caption import CaptionOptions
from controlmill.config.engine import EngineOptions
from controlmill.config.evaluate import EvaluateConfig
from controlmill.config.image import ImageOptions
from controlmill.config.layers import LayerOptions
from controlmill.config.model import ModelOptions
from controlmill.config.pull import PullOptions
from controlmill.config.sample import SampleConfig
from controlmill.config.source import SourceOptions
from controlmill.config.train import TrainConfig
from controlmill.config.training_data import EncodeConfig, EncodeOptions, TrainingDataOptions
from controlmill.config.update import ObjectiveOptions, OptimizerOptions, UpdateOptions
from controlmill.config.workers import RunOptions, WorkerOptions, ZeroOptions

__all__ = [
    "AnnotateConfig",
    "BuildAndTrainConfig",
    "BuildConfig",
    "CaptionConfig",
    "CaptionOptions",
    "EncodeConfig",
    "EncodeOptions",
    "EngineOptions",
    "EvaluateConfig",
    "ImageOptions",
    "LayerOptions",
    "ModelOptions",
    "ObjectiveOptions",
    "OptimizerOptions",
    "Options",
    "PullOptions",
    "RetryConfig",
    "RunOptions",
    "SampleConfig",
    "ShardOptions",
    "SourceOptions",
    "TrainConfig",
    "TrainingDataOptions",
    "UpdateOptions",
    "WorkerOptions",
    "ZeroOptions",
    "load_yaml",
    "parse_overrides",
    "unknown_option",
    "validate",
]
