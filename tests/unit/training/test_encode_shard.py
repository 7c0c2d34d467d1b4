"""What `encode` stores: the numbers that training would compute, once, and only where they are missing."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from controlmill.config import TrainConfig
from controlmill.config.training_data import EncodeOptions, TrainingDataOptions
from controlmill.errors import ConfigError, StorageError
from controlmill.testing.tiny_sd import write_tiny_sd
from controlmill.testing.training_set import write_training_set
from storage.dataset import Dataset
from storage.stored_image import decode_stored
from storage.verify import verify
from training.base_model import BaseModel
from training.batch import Batch, PromptEmbeddings, as_stored, to_unit_range
from training.encode_shard import Encoding, MissingLayers, encode_shard
from training.place import Place
from training.reader.cache import LATENT, TEXT, caption_source
from training.reader.reader import ShardReader
from training.setup import load_base, open_reader

OBLONG = [(96, 64), (64, 64), (72, 128)]
BUCKETS = {"enable_bucket": True, "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 16}


@dataclass
class MeanPool:
    """A base whose posterior is simple: the mean of each 8x8 square, so that cuts and mirrors commute with it."""

    fingerprint: str = "mean-pool"
    encoded: list[str] = field(default_factory=list)

    def encode_pixels(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        mean_BCHW = functional.avg_pool2d(pixels_BCHW, 8)
        return mean_BCHW, mean_BCHW.abs() + 0.1

    def encode_prompts(self, prompts: Sequence[str]) -> PromptEmbeddings:
        self.encoded += prompts
        rows = [[float(len(prompt)), float(sum(map(ord, prompt)))] for prompt in prompts]
        return PromptEmbeddings(torch.tensor(rows)[:, None, :].expand(-1, 3, -1) / 10)


def encode(dataset: str, base: Any, layers: tuple[str, ...] | None = None, **options: Any) -> Encoding:
    """Encode what is missing, in this process."""
    opened = Dataset.open(dataset)
    given = EncodeOptions(pretrained_model_name_or_path="base", **{"resolution": 64, "batch_size": 5, **options})
    encoding = Encoding(given, base.fingerprint, "base", caption_source(opened, given.caption_column))
    missing = MissingLayers(opened, encoding)
    for shard in sorted(opened.layer("image").committed()):
        wanted = missing.of(shard) if layers is None else layers
        encode_shard(opened, shard, cast("BaseModel", base), encoding, wanted, lambda _num_done: None)
    return encoding


def take(dataset: str, fingerprint: str, num_batches: int, **options: Any) -> list[Batch]:
    values = {"condition": "canny", "resolution": 64, "dataloader_num_workers": 1, **options}
    given = TrainingDataOptions(train_data_dir=dataset, **values)
    with ShardReader(given, batch_size=3, base_fingerprint=fingerprint) as reader:
        return list(itertools.islice(reader, num_batches))


def require_equal(dataset: str, base: Any, num_batches: int, **options: Any) -> None:
    """Cached batches are what encoding on the fly gives, to the bit."""
    cached = take(dataset, base.fingerprint, num_batches, cached_layers="require", **options)
    fresh = take(dataset, base.fingerprint, num_batches, cached_layers="ignore", **options)
    for one, other in zip(cached, fresh, strict=True):
        assert (one.keys, one.prompts) == (other.keys, other.prompts)
        assert one.pixels_BCHW is None
        assert torch.equal(one.hints[0], other.hints[0])
        mean_BCHW, std_BCHW = base.encode_pixels(other.pixels_BCHW)
        assert torch.equal(one.latent_mean_BCHW, as_stored(mean_BCHW))
        assert torch.equal(one.latent_std_BCHW, as_stored(std_BCHW))
        expected = base.encode_prompts(one.prompts)
        assert torch.equal(one.embeddings.hidden_BLD, as_stored(expected.hidden_BLD))
        if expected.pooled_BD is not None:
            assert torch.equal(one.embeddings.pooled_BD, as_stored(expected.pooled_BD))


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_cached_layers_hold_what_a_real_base_computes(tmp_path: Path, kind: str) -> None:
    dataset = write_training_set(tmp_path, 40, 64, rows_per_shard=30)
    base = BaseModel.load(str(write_tiny_sd(tmp_path / "base", kind)), parts=("vae", "text"))
    encode(dataset, base)
    require_equal(dataset, base, 15)
    assert list(verify(Dataset.open(dataset), deep=True)) == []


def test_a_run_in_half_precision_encodes_as_the_layers_were_made(tmp_path: Path) -> None:
    dataset = write_training_set(tmp_path, 30, 64)
    path = str(write_tiny_sd(tmp_path / "base"))
    encode(dataset, BaseModel.load(path, parts=("vae", "text")))
    values = {"train_data_dir": dataset, "condition": ("canny",), "pretrained_model_name_or_path": path}
    run = TrainConfig.model_validate({**values, "mixed_precision": "bf16", "cached_layers": "ignore", "resolution": 64})
    place = Place(0, 1, torch.device("cpu"))
    with open_reader(run, place) as reader:
        base = load_base(run, place, reader)
    assert base.unet.dtype == torch.bfloat16
    in_half = BaseModel.load(path, dtype=torch.bfloat16, parts=("vae", "text"))
    cached, fresh = (take(dataset, base.fingerprint, 8, cached_layers=how) for how in ("require", "ignore"))
    for one, other in zip(cached, fresh, strict=True):
        assert one.pixels_BCHW is None
        assert other.pixels_BCHW is not None
        # batches of another size round otherwise in float32, which moves some values by one step of float16
        near = {"atol": 1e-4, "rtol": 1e-3}
        mean_BCHW, hidden_BLD = base.encode_pixels(other.pixels_BCHW)[0], base.encode_prompts(one.prompts).hidden_BLD
        torch.testing.assert_close(one.latent_mean_BCHW, as_stored(mean_BCHW), **near)
        torch.testing.assert_close(one.embeddings.hidden_BLD, as_stored(hidden_BLD), **near)  # type: ignore[union-attr]
        assert not torch.allclose(mean_BCHW, in_half.encode_pixels(other.pixels_BCHW)[0], **near)
        assert not torch.allclose(hidden_BLD, in_half.encode_prompts(one.prompts).hidden_BLD, **near)


@pytest.mark.parametrize("options", [{"random_flip": True}, BUCKETS], ids=["flip", "buckets"])
def test_a_real_vae_gives_cached_mirrors_and_buckets_as_it_does_pixels(tmp_path: Path, options: dict[str, Any]) -> None:
    dataset = write_training_set(tmp_path, 30, 64, sizes=[(96, 64), (64, 64)])
    base = BaseModel.load(str(write_tiny_sd(tmp_path / "base")), parts=("vae", "text"))
    encode(dataset, base, **options)
    cached, fresh = (take(dataset, base.fingerprint, 12, cached_layers=how, **options) for how in ("require", "ignore"))
    for one, other in zip(cached, fresh, strict=True):
        mean_BCHW = base.encode_pixels(cast("Tensor", other.pixels_BCHW))[0]
        torch.testing.assert_close(one.latent_mean_BCHW, as_stored(mean_BCHW), atol=1e-3, rtol=0)


def test_cached_random_crops_are_cut_out_of_the_latents_of_the_whole_image(tmp_path: Path) -> None:
    dataset = write_training_set(tmp_path, 30, 64, sizes=[(96, 64)])
    base = BaseModel.load(str(write_tiny_sd(tmp_path / "base")), parts=("vae", "text"))
    encode(dataset, base, center_crop=False)
    cached, fresh = (
        take(dataset, base.fingerprint, 4, cached_layers=how, center_crop=False) for how in ("require", "ignore")
    )
    layer = Dataset.open(dataset).layer("image")
    batches = [batch for shard in (0, 1) for batch in layer.iter_batches(shard, ["key", "image"])]
    rows = [row for batch in batches for row in batch.to_pylist()]
    wholes = {row["key"]: to_unit_range(torch.from_numpy(decode_stored(row["image"]["bytes"])[None])) for row in rows}
    offsets = set()
    for one, other in zip(cached, fresh, strict=True):
        for key, seen_CHW, mean_CHW in zip(one.keys, other.pixels_BCHW, one.latent_mean_BCHW, strict=True):  # type: ignore[arg-type]
            (left,) = [
                left for left in range(0, 33, 8) if torch.equal(wholes[key][0, :, :, left : left + 64], seen_CHW)
            ]
            offsets.add(left)
            whole_BCHW = base.encode_pixels(wholes[key])[0]
            expected_CHW = as_stored(whole_BCHW[0, :, :, left // 8 : left // 8 + 8])
            torch.testing.assert_close(mean_CHW, expected_CHW, atol=1e-3, rtol=0)
    assert len(offsets) > 1


@pytest.mark.parametrize(
    "options",
    [{}, {"random_flip": True}, {"center_crop": False}, {"center_crop": False, "random_flip": True}, BUCKETS],
    ids=["center", "flip", "random", "random flip", "buckets"],
)
def test_crops_and_mirrors_of_latents_are_those_of_pixels(tmp_path: Path, options: dict[str, Any]) -> None:
    dataset = write_training_set(tmp_path, 45, 64, sizes=OBLONG)
    base = MeanPool()
    encode(dataset, base, **options)
    if "random_flip" in options or "center_crop" in options:
        cached = take(dataset, base.fingerprint, 15, cached_layers="require", **options)
        fresh = take(dataset, base.fingerprint, 15, cached_layers="ignore", **options)
        for one, other in zip(cached, fresh, strict=True):
            # sums in another order round otherwise
            torch.testing.assert_close(
                one.latent_mean_BCHW, base.encode_pixels(other.pixels_BCHW)[0], atol=1e-3, rtol=0
            )
            assert torch.equal(one.hints[0], other.hints[0])
    else:
        require_equal(dataset, base, 15, **options)


def test_the_empty_prompt_and_frequent_captions_are_stored_once(tmp_path: Path) -> None:
    base = MeanPool()
    captions = [*["the same words", "other words", "the same words", ""] * 40, "rare"]
    frequent = write_training_set(tmp_path, 161, 64, rows_per_shard=161, captions=captions)
    encode(frequent, base)
    assert sorted(base.encoded) == ["", "other words", "rare", "the same words"]
    table = pq.read_table(min(Path(frequent, TEXT).glob("*.parquet")))
    stored = {name: len(table) - table.column(name).null_count for name in ("empty_hidden", "shared_hidden", "hidden")}
    assert stored == {"empty_hidden": 1, "shared_hidden": 2, "hidden": 1}
    require_equal(frequent, base, 60, proportion_empty_prompts=0.3)


@pytest.mark.parametrize("options", [{}, {"center_crop": False}, BUCKETS], ids=["center", "random", "buckets"])
def test_the_probe_sees_the_middle_with_and_without_cache(tmp_path: Path, options: dict[str, Any]) -> None:
    dataset = write_training_set(tmp_path, 60, 64, sizes=OBLONG)
    base = MeanPool()
    encode(dataset, base, **options)
    values = {"condition": "canny", "resolution": 64, "train_data_dir": dataset, **options}
    cached, fresh = (
        ShardReader(
            TrainingDataOptions(**values, cached_layers=how),
            batch_size=2,
            base_fingerprint=base.fingerprint,
            num_probe_rows=6,
        ).held_out()
        for how in ("require", "ignore")
    )
    assert len(cached) == 6
    assert torch.equal(cached.hints[0], fresh.hints[0])
    torch.testing.assert_close(cached.latent_mean_BCHW, base.encode_pixels(fresh.pixels_BCHW)[0], atol=1e-3, rtol=0)


def test_only_what_is_missing_is_made_again(tmp_path: Path) -> None:
    dataset = write_training_set(tmp_path, 60, 64, rows_per_shard=20, caption_layer=True)
    base = MeanPool()
    encoding = encode(dataset, base)
    opened = Dataset.open(dataset)
    hashes = {layer: [record.sha256 for record in opened.layer(layer).iter_records()] for layer in (LATENT, TEXT)}
    assert all(MissingLayers(opened, encoding).of(shard) == () for shard in range(3))
    opened.layer(LATENT).delete(1)
    assert [MissingLayers(opened, encoding).of(shard) for shard in range(3)] == [(), (LATENT,), ()]
    encode(dataset, base, batch_size=3)
    assert {layer: [record.sha256 for record in opened.layer(layer).iter_records()] for layer in hashes} == hashes
    opened.layer("caption").delete(2)
    with pytest.raises(StorageError, match="shard 00002 has no caption to encode"):
        MissingLayers(opened, encoding).of(2)


def test_mirrored_latents_serve_runs_that_do_not_mirror(tmp_path: Path) -> None:
    dataset = write_training_set(tmp_path, 10, 64)
    base = MeanPool()
    encode(dataset, base, random_flip=True)
    plain = encode(dataset, base, layers=())
    assert MissingLayers(Dataset.open(dataset), plain).of(0) == ()
    require_equal(dataset, base, 3)


@pytest.mark.parametrize(
    ("encoded", "options", "why"),
    [
        ({}, {"resolution": 32}, "images: latent/00000 was made with resolution 64"),
        ({}, {"center_crop": False}, "images: latent/00000 was made with center_crop True"),
        ({}, {"random_flip": True}, "images: random_flip needs latent of mirrored images too"),
        ({}, {"caption_column": "image.url"}, "prompts: text_embedding/00000 was made with captions image.caption"),
        (BUCKETS, {}, "images: latent/00000 was made with enable_bucket"),
        (None, {}, "images: there is no layer latent; prompts: there is no layer text_embedding"),
    ],
)
def test_what_does_not_fit_is_left_aside_and_said(
    tmp_path: Path, encoded: dict[str, Any] | None, options: dict[str, Any], why: str
) -> None:
    dataset = write_training_set(tmp_path, 12, 64)
    base = MeanPool()
    if encoded is not None:
        encode(dataset, base, **encoded)
    given = {"train_data_dir": dataset, "condition": "canny", "resolution": 64, **options}
    reader = ShardReader(TrainingDataOptions(**given), batch_size=2, base_fingerprint=base.fingerprint)
    assert why in reader.cached.sentence
    with pytest.raises(ConfigError, match="cached_layers: require, but"):
        ShardReader(
            TrainingDataOptions(**given, cached_layers="require"), batch_size=2, base_fingerprint=base.fingerprint
        )
    with reader:
        batch = next(iter(reader))
    assert (batch.pixels_BCHW is not None) == ("images" in why)
    assert (batch.embeddings is None) == ("prompts" in why)


def test_another_base_or_newer_images_are_noticed(tmp_path: Path) -> None:
    dataset = write_training_set(tmp_path, 12, 64)
    encode(dataset, MeanPool())
    given = TrainingDataOptions(train_data_dir=dataset, condition="canny", resolution=64)
    assert "was made with another base" in ShardReader(given, batch_size=2, base_fingerprint="other").cached.sentence
    assert ShardReader(given, batch_size=2).cached.latents is None
    opened = Dataset.open(dataset)
    for name in ("image", "canny"):
        record = opened.layer(name).records()[0]
        changed = (
            record.inputs if name == "image" else {"image": record.inputs["image"].model_copy(update={"sha256": "new"})}
        )
        updates = {"sha256": "new", "inputs": changed} if name == "image" else {"inputs": changed}
        opened.layer(name).write_record(record.model_copy(update=updates))
    sentence = ShardReader(given, batch_size=2, base_fingerprint="mean-pool").cached.sentence
    assert "images: latent/00000 was made from another image" in sentence


def test_values_beyond_float16_are_kept_finite() -> None:
    large = torch.tensor([1e6, -1e6, 0.1])
    assert torch.isfinite(as_stored(large)).all()
    assert as_stored(large)[2] == np.float16(0.1)
