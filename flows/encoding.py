"""What encoding shares: which base, which shards, and the networks that each process loads once. No Prefect here."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlmill.config import EncodeConfig
from controlmill.errors import DatasetMismatchError, WeightsUnusableError
from controlmill.heap import keep_freed_memory
from storage.dataset import Dataset
from storage.filesystem import redact
from training.base_files import find_base
from training.encode_shard import Encoding
from training.reader.cache import LATENT, TEXT, caption_source

if TYPE_CHECKING:
    from training.base_model import BaseModel

_loaded: dict[tuple[str, str], "BaseModel"] = {}


def encoding_of(dataset: Dataset, config: EncodeConfig) -> Encoding:
    """How this dataset is encoded.

    Raises:
        ConfigError: there is no such column of captions.
        WeightsError: the base is not there, or is none.
    """
    base = find_base(
        config.pretrained_model_name_or_path, parts=("vae", "text"), revision=config.revision, variant=config.variant
    )
    return Encoding(config, base.fingerprint(), base.reference, caption_source(dataset, config.caption_column))


def shards_to_encode(dataset: Dataset, encoding: Encoding) -> Iterator[int]:
    """Remember how the dataset is encoded, and yield its shards.

    Raises:
        DatasetMismatchError: nothing was built in it yet.
        StorageError: a shard has images and no captions.
    """
    known = dataset.description().options
    if "image" not in known:
        raise DatasetMismatchError(f"{redact(dataset.uri)}: nothing was built here yet; run `controlmill build` first")
    dataset.describe(options={**known, "encode": {layer: encoding.recipe(layer) for layer in (LATENT, TEXT)}})
    yield from sorted(dataset.layer("image").committed())


def base_of(encoding: Encoding, reference: str, device: str) -> "BaseModel":
    """VAE and text encoders in float32, loaded once per process.

    Raises:
        WeightsUnusableError: this machine has other files than the one that the run was started on.
    """
    from training.base_model import BaseModel

    wanted = (encoding.base_fingerprint, device)
    if wanted not in _loaded:
        options = encoding.options
        files = find_base(reference, parts=("vae", "text"), revision=options.revision, variant=options.variant)
        found = files.fingerprint()
        if found != encoding.base_fingerprint:
            raise WeightsUnusableError(
                f"pretrained_model_name_or_path: {files.folder} has other VAE or text encoder files than the machine "
                f"that this run was started on (fingerprint {found[:12]}, not {encoding.base_fingerprint[:12]})"
            )
        if device == "cpu":
            keep_freed_memory()
        _loaded[wanted] = BaseModel.load(
            reference, device=device, parts=("vae", "text"), revision=options.revision, variant=options.variant
        )
    return _loaded[wanted]
