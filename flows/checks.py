"""What a run of several stages checks before its first. No Prefect here."""

from functools import partial

from controlmill.config import BuildAndTrainConfig
from storage.weights.resolve import together
from tasks.recipe import captioner_of
from tasks.sources.plan import check_source
from training.base_files import find_base


def check(config: BuildAndTrainConfig) -> None:
    """Refuse now what would be refused after hours of building.

    Raises:
        SourceError: there is no such source.
        WeightsError: the base, or weights of annotators or captioner, are not there; one error for all.
        ConfigError: there is no such annotator or column.
    """
    check_source(config.build)
    train = config.train
    base = partial(find_base, train.pretrained_model_name_or_path, revision=train.revision, variant=train.variant)
    together(partial(captioner_of, config.build), base)
