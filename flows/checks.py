"""What a run of several stages checks before its first. No Prefect here."""

from controlmill.config import BuildAndTrainConfig
from tasks.annotators.weights import find_all_weights
from tasks.captioners.registry import captioner_of
from tasks.recipe import annotators
from tasks.sources.plan import check_source
from training.base_files import find_base


def check(config: BuildAndTrainConfig) -> None:
    """Refuse now what would be refused after hours of building.

    Raises:
        SourceError: there is no such source.
        WeightsError: the base, or the weights of an annotator, are not there.
        ConfigError: there is no such annotator or column.
    """
    check_source(config.build)
    find_all_weights(annotators(config.build))
    captioner_of(config.build)
    train = config.train
    find_base(train.pretrained_model_name_or_path, revision=train.revision, variant=train.variant)
