"""Encode one shard once for all epochs: which of its cached layers are missing, and their commit records."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from controlmill.config.training_data import EncodeOptions
from controlmill.errors import StorageError
from storage.dataset import Dataset
from storage.filesystem import redact
from storage.fingerprint import fingerprint
from storage.record import CommitRecord, LayerInput, UnitDescription
from storage.writer import ShardWriter, WrittenFile
from training.base_model import BaseModel
from training.encode_latents import write_latents
from training.encode_text import write_embeddings
from training.reader.cache import LATENT, LATENT_VERSION, TEXT, TEXT_VERSION, latent_recipe, text_recipe

_IMAGE: Final = "image"
_LIBRARIES: Final = ("controlmill", "pyarrow", "torch", "diffusers", "transformers", "numpy")
_VERSIONS: Final = {LATENT: LATENT_VERSION, TEXT: TEXT_VERSION}

Report = Callable[[int], None]
"""Called with the number of rows that are done, as they are."""


@dataclass(frozen=True)
class Encoding:
    """How the cached layers of a dataset are made; small, and can be pickled."""

    options: EncodeOptions
    base_fingerprint: str
    base_reference: str
    """What the records call the base: its repository, or the name of its folder."""
    captions: tuple[str, str]
    """Layer and column of the prompts."""

    def recipe(self, layer: str) -> dict[str, Any]:
        """What a layer depends on besides its input layers, as plain JSON values."""
        if layer == TEXT:
            return text_recipe(self.base_fingerprint, self.captions)
        return {**latent_recipe(self.base_fingerprint, self.options), "random_flip": self.options.random_flip}

    def inputs(self, layer: str) -> tuple[str, ...]:
        """The layers that it is made from."""
        return tuple(dict.fromkeys((_IMAGE, self.captions[0]))) if layer == TEXT else (_IMAGE,)

    def is_made(self, layer: str, made: CommitRecord | None, inputs: Mapping[str, LayerInput]) -> bool:
        """Whether a commit record is that of this layer, made from these inputs."""
        if made is None or dict(made.inputs) != dict(inputs):
            return False
        recipe = self.recipe(layer)
        # one that has mirrored latents too lacks nothing
        recipes = (recipe, {**recipe, "random_flip": True}) if layer == LATENT else (recipe,)
        return made.fingerprint in {_fingerprint(layer, one, inputs) for one in recipes}


class MissingLayers:
    """Looks up which cached layers each shard lacks; reads all commit records once."""

    def __init__(self, dataset: Dataset, encoding: Encoding) -> None:
        self._encoding = encoding
        self._dataset = dataset
        names = {_IMAGE, LATENT, TEXT, encoding.captions[0]}
        self._records = {name: dataset.layer(name).records() for name in names}

    def of(self, shard: int) -> tuple[str, ...]:
        """The layers that the shard lacks.

        Raises:
            StorageError: it has no images or captions to encode.
        """
        missing = []
        for layer in (LATENT, TEXT):
            inputs = {name: self._records[name].get(shard) for name in self._encoding.inputs(layer)}
            made_from = {name: as_input(self._dataset, name, shard, record) for name, record in inputs.items()}
            if not self._encoding.is_made(layer, self._records[layer].get(shard), made_from):
                missing.append(layer)
        return tuple(missing)

    def num_rows(self, shard: int) -> int:
        """Rows of a shard."""
        return self._records[_IMAGE][shard].rows


def as_input(dataset: Dataset, layer: str, shard: int, record: CommitRecord | None) -> LayerInput:
    """What a record tells of a layer that another one is made from.

    Raises:
        StorageError: it is not there.
    """
    if record is None:
        raise StorageError(
            f"{redact(dataset.uri)}: shard {shard:05d} has no {layer} to encode; run the command that makes it first"
        )
    return LayerInput(fingerprint=record.fingerprint, sha256=record.sha256)


def encode_shard(
    dataset: Dataset, shard: int, base: BaseModel, encoding: Encoding, layers: tuple[str, ...], report: Report
) -> list[CommitRecord]:
    """Make the cached layers `layers` of a shard; returns their commit records.

    Raises:
        StorageError: the input layers are not there or damaged, or the layers cannot be written.
    """
    return [_encode_layer(dataset, shard, base, encoding, layer, report) for layer in layers]


def _encode_layer(
    dataset: Dataset, shard: int, base: BaseModel, encoding: Encoding, layer: str, report: Report
) -> CommitRecord:
    started_s = time.time()
    inputs = {
        name: as_input(dataset, name, shard, dataset.layer(name).record(shard)) for name in encoding.inputs(layer)
    }
    writer: ShardWriter
    if layer == LATENT:
        writer = write_latents(dataset, shard, base, encoding.options, report)
    else:
        writer = write_embeddings(dataset, shard, base, encoding.captions, encoding.options.batch_size)
    with writer:
        record = _record(encoding, layer, shard, writer.close(), inputs, started_s)
        writer.commit(record)
    return record


def _record(
    encoding: Encoding,
    layer: str,
    shard: int,
    written: WrittenFile,
    inputs: dict[str, LayerInput],
    started_s: float,
) -> CommitRecord:
    ended_s = time.time()
    recipe = encoding.recipe(layer)
    return CommitRecord(
        layer=layer,
        shard=shard,
        count=written.num_rows,
        successes=written.num_rows,
        rows=written.num_rows,
        num_bytes=written.num_bytes,
        sha256=written.sha256,
        duration=ended_s - started_s,
        start_time=started_s,
        end_time=ended_s,
        fingerprint=_fingerprint(layer, recipe, inputs),
        inputs=inputs,
        unit=UnitDescription(
            name=layer, version=_VERSIONS[layer], config={**recipe, "reference": encoding.base_reference}
        ),
        versions={name: version(name) for name in _LIBRARIES},
    )


def _fingerprint(layer: str, recipe: dict[str, Any], inputs: Mapping[str, LayerInput]) -> str:
    return fingerprint(layer, _VERSIONS[layer], recipe, {name: made.fingerprint for name, made in inputs.items()})
