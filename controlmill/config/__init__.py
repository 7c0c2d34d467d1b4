"""The one source of configuration: command line, YAML files, Prefect parameters and reference docs come from here."""

from controlmill.config.base import Options, load_yaml, parse_overrides, unknown_option, validate
from controlmill.config.build import AnnotateConfig, BuildConfig, CaptionConfig, RetryConfig, ShardOptions
from controlmill.config.caption import CaptionOptions
from controlmill.config.engine import EngineOptions
from controlmill.config.image import ImageOptions
from controlmill.config.layers import LayerOptions
from controlmill.config.pull import PullOptions
from controlmill.config.source import SourceOptions

__all__ = [
    "AnnotateConfig",
    "BuildConfig",
    "CaptionConfig",
    "CaptionOptions",
    "EngineOptions",
    "ImageOptions",
    "LayerOptions",
    "Options",
    "PullOptions",
    "RetryConfig",
    "ShardOptions",
    "SourceOptions",
    "load_yaml",
    "parse_overrides",
    "unknown_option",
    "validate",
]
