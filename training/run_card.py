"""What the model card of a run says: gathered from the run and from the commit records of its dataset."""

import importlib.metadata
from typing import TYPE_CHECKING

from storage.dataset import Dataset
from storage.fingerprint import fingerprint
from training.model_card import Recipe

if TYPE_CHECKING:
    from training.run import Run

_PLACES = frozenset(
    {"output_dir", "train_data_dir", "ray_address", "metrics_port", "resume_from_checkpoint", "offload_folder"}
)
"""Options that tell of a machine, not of a recipe."""
_LIBRARIES = ("torch", "diffusers", "deepspeed", "transformers")


def recipe_of(run: "Run", following: str, *, decoder_trained: bool = False) -> Recipe:
    """How the ControlNet of this run was made; nothing in it tells of the machine.

    Args:
        run: at its end.
        following: what the probe says of it.
        decoder_trained: whether the base's decoder was trained too.
    """
    config = run.config
    dataset = Dataset.open(config.train_data_dir)
    options = config.model_dump(mode="json", exclude_defaults=True, exclude=set(_PLACES))
    return Recipe(
        base=run.base.files.reference,
        base_fingerprint=run.base.fingerprint,
        kind=run.base.kind,
        conditions=config.condition,
        dataset=config.train_data_dir.rstrip("/").rsplit("/", 1)[-1],
        layer_fingerprints={name: _of_layer(dataset, name) for name in (config.image_column, *config.condition)},
        updates=run.update,
        samples_seen=run.samples_seen,
        epochs=run.epoch,
        options={**options, "pretrained_model_name_or_path": run.base.files.reference},
        num_rows=run.reader.num_rows,
        decoder_trained=decoder_trained,
        following=following or None,
        libraries={name: importlib.metadata.version(name) for name in _LIBRARIES},
    )


def _of_layer(dataset: Dataset, name: str) -> str:
    """One fingerprint over those of all shards."""
    made = {f"{shard:05d}": status.fingerprint for shard, status in dataset.layer(name).statuses().items()}
    return fingerprint(name, made)
