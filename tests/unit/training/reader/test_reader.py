"""What the reader gives: the stored rows, in an order that ranks share and a checkpoint keeps."""

import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from controlmill.config import TrainConfig
from controlmill.errors import ConfigError, CorruptShardError, DatasetMismatchError, DatasetMissingError, StorageError
from controlmill.testing.training_set import write_training_set
from storage.dataset import Dataset
from storage.stored_image import decode_map, decode_stored
from storage.writer import ShardWriter
from training.batch import Batch, to_unit_range
from training.place import Place
from training.reader.reader import ShardReader
from training.run import Run

NUM_ROWS = 150


def take(reader: ShardReader, num_batches: int) -> list[Batch]:
    with reader:
        return list(itertools.islice(reader, num_batches))


def keys(batches: Sequence[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def stored_rows(dataset: str, layer: str) -> dict[str, dict[str, Any]]:
    files = sorted(Path(dataset, layer).glob("*.parquet"))
    return {row["key"]: row for file in files for row in pq.read_table(file).to_pylist()}


def test_rows_are_the_stored_ones(squares: str, open_reader: Any) -> None:
    images, maps = stored_rows(squares, "image"), stored_rows(squares, "canny")
    batches = take(open_reader(squares, proportion_empty_prompts=0), 38)
    for batch in batches:
        # as they are stored: a twelfth of what goes to a GPU as hints
        assert (batch.maps[0].dtype, batch.maps[0].shape[1]) == (torch.uint8, 1)
        for place, key in enumerate(batch.keys):
            pixels = decode_stored(images[key]["image"]["bytes"])
            assert torch.equal(batch.pixels_BCHW[place], to_unit_range(torch.from_numpy(pixels[None]))[0])
            edges = decode_map(maps[key]["conditioning_image"]["bytes"])
            assert torch.equal(batch.hints[0][place], torch.from_numpy(edges / np.float32(255)).expand(3, -1, -1))
            assert batch.prompts[place] == (images[key]["caption"] or "")
    assert Counter(Counter(keys(batches)).values()) == {1: 148, 2: 2}
    assert batches[-1].epochs == (0, 0, 1, 1)


def test_epochs_differ_and_rows_are_carried_over(squares: str, open_reader: Any) -> None:
    reader = open_reader(squares, batch_size=7)
    found = keys(take(reader, 2 * NUM_ROWS // 7 + 1))
    first, second = found[:NUM_ROWS], found[NUM_ROWS : 2 * NUM_ROWS]
    assert sorted(first) == sorted(second)
    assert len(set(first)) == NUM_ROWS
    assert first != second
    assert reader.samples_per_epoch == reader.num_rows == NUM_ROWS


@pytest.mark.parametrize("world_size", [2, 3, 4, 5])
def test_ranks_share_each_global_batch(squares: str, open_reader: Any, world_size: int) -> None:
    """Disjoint, and together what one process sees, through the end of an epoch."""
    num_batches = 170 // (2 * world_size)
    alone = take(open_reader(squares, batch_size=2 * world_size), num_batches)
    ranks = [
        take(open_reader(squares, batch_size=2, rank=r, world_size=world_size), num_batches) for r in range(world_size)
    ]
    for number, whole in enumerate(alone):
        of_ranks = [of_rank[number] for of_rank in ranks]
        assert Counter(keys(of_ranks)) == Counter(whole.keys)
        by_key = {
            (key, epoch): prompt for key, epoch, prompt in zip(whole.keys, whole.epochs, whole.prompts, strict=True)
        }
        for batch in of_ranks:
            assert [by_key[row] for row in zip(batch.keys, batch.epochs, strict=True)] == list(batch.prompts)


def test_accumulated_batches_are_those_of_one_large_one(squares: str, open_reader: Any) -> None:
    assert keys(take(open_reader(squares, batch_size=8), 20)) == keys(take(open_reader(squares, batch_size=2), 80))


@pytest.mark.parametrize("at", [1, 18, 37, 38, 39])
def test_resumed_at_any_place_with_any_number_of_ranks(squares: str, open_reader: Any, at: int) -> None:
    whole = take(open_reader(squares, random_flip=True, center_crop=False), 50)
    first = open_reader(squares, random_flip=True, center_crop=False)
    take(first, at)
    state = first.state_dict()
    assert state["epoch"] * NUM_ROWS + state["sample"] == first.position == 4 * at
    again = open_reader(squares, random_flip=True, center_crop=False)
    again.load_state_dict(state)
    for before, after in zip(whole[at:], take(again, 50 - at), strict=True):
        assert before.keys == after.keys
        assert before.prompts == after.prompts
        assert torch.equal(before.pixels_BCHW, after.pixels_BCHW)
    halves = [open_reader(squares, batch_size=1, rank=rank, world_size=2) for rank in range(2)]
    for half in halves:
        half.load_state_dict(state)
    together = [keys(take(half, 100 - 2 * at)) for half in halves]
    assert [key for pair in zip(*together, strict=True) for key in pair] == keys(whole[at:])


def test_the_position_is_what_was_given_out_not_what_was_read_ahead(squares: str, open_reader: Any) -> None:
    with open_reader(squares, dataloader_num_workers=4) as reader:
        batches = iter(reader)
        assert reader.position == 0
        next(batches)
        assert reader.position == 4


def test_a_checkpoint_of_other_rows_is_refused(squares: str, oblongs: str, open_reader: Any) -> None:
    state = open_reader(squares).state_dict()
    with pytest.raises(ConfigError, match="layers of the dataset have changed"):
        open_reader(oblongs).load_state_dict(state)
    with pytest.raises(ConfigError, match="seed: 0 in the checkpoint, 1 now"):
        open_reader(squares, seed=1).load_state_dict(state)
    with pytest.raises(ConfigError, match="rows to train on: 150 in the checkpoint, 100 now"):
        open_reader(squares, max_train_samples=100).load_state_dict(state)


def test_prompts_are_dropped_by_the_share_and_anew_in_each_epoch(squares: str, open_reader: Any) -> None:
    batches = take(open_reader(squares, batch_size=50, proportion_empty_prompts=0.5), 6)
    captions = {key: row["caption"] for key, row in stored_rows(squares, "image").items()}
    dropped = [
        {key for b in batches for key, epoch, prompt in zip(b.keys, b.epochs, b.prompts, strict=True)
         if epoch == number and not prompt and captions[key]}
        for number in (0, 1)
    ]  # fmt: skip
    assert all(40 < len(of_epoch) < 80 for of_epoch in dropped)
    assert dropped[0] != dropped[1]
    assert take(open_reader(squares, proportion_empty_prompts=1), 1)[0].prompts == ("",) * 4


def test_held_out_rows_are_never_trained_on(squares: str, open_reader: Any) -> None:
    reader = open_reader(squares, num_probe_rows=12)
    assert reader.num_held_out == 12
    assert reader.num_rows == NUM_ROWS - 12
    probe = reader.held_out(12)
    assert open_reader(squares, num_probe_rows=12, seed=5).held_out(4).keys == probe.keys[:4]
    captions = stored_rows(squares, "image")
    assert probe.prompts == tuple(captions[key]["caption"] or "" for key in probe.keys)
    assert not set(keys(take(reader, 80))) & set(probe.keys)
    with pytest.raises(ConfigError, match="13 rows are wanted for the probe and 12 are held out"):
        reader.held_out(13)
    assert open_reader(squares, num_probe_rows=100).num_held_out == NUM_ROWS // 10


def test_fewer_rows_are_the_same_ones_in_every_epoch(squares: str, open_reader: Any) -> None:
    reader = open_reader(squares, max_train_samples=10, batch_size=5)
    found = keys(take(reader, 6))
    assert len(set(found)) == 10 == reader.num_rows
    assert set(Counter(found).values()) == {3}


def test_the_layer_of_captions_comes_first(oblongs: str, open_reader: Any) -> None:
    plain = {"proportion_empty_prompts": 0, "batch_size": 8}
    assert all(
        prompt.startswith("a picture of") for b in take(open_reader(oblongs, **plain), 2) for prompt in b.prompts
    )
    alt_texts = take(open_reader(oblongs, **plain, caption_column="caption.alt_text"), 2)
    assert alt_texts[0].prompts == take(open_reader(oblongs, **plain, caption_column="image"), 2)[0].prompts
    with pytest.raises(ConfigError, match="no layer captions"):
        open_reader(oblongs, caption_column="captions")
    with pytest.raises(ConfigError, match="no column text of text"):
        open_reader(oblongs, caption_column="caption.text")


def test_several_conditions(tmp_path: Path, open_reader: Any) -> None:
    dataset = write_training_set(tmp_path, 20, annotators=("canny", "lineart_standard"))
    batch = take(open_reader(dataset, condition=("lineart_standard", "canny")), 1)[0]
    reverse = take(open_reader(dataset, condition=("canny", "lineart_standard")), 1)[0]
    assert batch.keys == reverse.keys
    assert torch.equal(batch.hints[0], reverse.hints[1])
    assert not torch.equal(batch.hints[0], batch.hints[1])


def test_time_ids_tell_size_crop_and_target(oblongs: str, open_reader: Any) -> None:
    rows = stored_rows(oblongs, "image")
    seen = set()
    for batch in take(open_reader(oblongs), 6):
        for key, numbers in zip(batch.keys, batch.time_ids_BT.tolist(), strict=True):
            width, height = rows[key]["width"], rows[key]["height"]
            assert numbers == [height, width, (height - 64) // 2, (width - 64) // 2, 64, 64]
            seen.add((width, height))
    assert len(seen) == 3


def test_missing_layers_and_datasets_are_told_before_anything_is_read(
    tmp_path: Path, squares: str, open_reader: Any
) -> None:
    with pytest.raises(DatasetMissingError):
        open_reader(str(tmp_path / "nothing"))
    with pytest.raises(StorageError, match=r"no layer hed \(there are: canny\)"):
        open_reader(squares, condition="hed")


def test_stale_failed_and_empty_rows(tmp_path: Path, open_reader: Any) -> None:
    """Rows whose hint is empty or failed are left out; shards without the layer are refused."""
    dataset = write_training_set(
        tmp_path, 30, rows_per_shard=20, annotator_options={"canny": {"low_threshold": 2039, "high_threshold": 2040}}
    )
    with pytest.raises(DatasetMismatchError, match="no row is left to train on: 30 canny empty"):
        open_reader(dataset)
    assert open_reader(dataset, keep_empty_hints=True).num_rows == 30
    Path(dataset, "canny", "00001_stats.json").unlink()
    with pytest.raises(DatasetMismatchError, match=r"canny lacks 1 of 2 shards \(00001\)"):
        open_reader(dataset)


def test_rows_whose_annotation_failed_are_left_out(tmp_path: Path, open_reader: Any) -> None:
    dataset = Dataset.open(write_training_set(tmp_path, 30))
    layer = dataset.layer("canny")
    rows = [row for batch in layer.iter_batches(0) for row in batch.to_pylist()]
    failed = {row["key"] for row in rows[::4]}
    changed = [
        {**row, "conditioning_image": None, "empty": None, "reason": "annotator_error"} if row["key"] in failed else row
        for row in rows
    ]
    record = layer.record(0)
    assert record is not None
    with ShardWriter(dataset, "canny", 0, layer.schema(0)) as writer:
        writer.write(pa.RecordBatch.from_pylist(changed, layer.schema(0)))
        written = writer.close()
        writer.commit(record.model_copy(update={"sha256": written.sha256, "num_bytes": written.num_bytes}))
    reader = open_reader(dataset.uri)
    assert reader.left_out == {"without canny": len(failed)}
    assert not failed & set(keys(take(reader, 20)))


@pytest.mark.parametrize("damage", ["cut", "missing", "no picture"])
def test_a_damaged_shard_is_named(tmp_path: Path, open_reader: Any, damage: str) -> None:
    dataset = write_training_set(tmp_path, 20)
    reader = open_reader(dataset)
    path = Path(dataset, "image", "00000.parquet")
    data = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(data[:-100])
    elif damage == "no picture":
        path.write_bytes(data.replace(b"\xff\xd8\xff\xe0", b"\x00\x00\x00\x00"))
    message = "shard 00000, row .*not a stored image" if damage == "no picture" else r"image/00000\.parquet"
    with pytest.raises(CorruptShardError, match=message):
        take(reader, 1)


def test_shards_that_are_not_built_are_told(tmp_path: Path, open_reader: Any) -> None:
    dataset = write_training_set(tmp_path, 50, rows_per_shard=20)
    Path(dataset, "image", "00001_stats.json").unlink()
    reader = open_reader(dataset)
    assert reader.num_rows == 30
    assert reader.left_out == {"in shards that are not built": 20}


def test_an_error_ends_the_threads(tmp_path: Path, open_reader: Any) -> None:
    dataset = write_training_set(tmp_path, 20)
    reader = open_reader(dataset)
    path = Path(dataset, "canny", "00000.parquet")
    path.write_bytes(path.read_bytes().replace(b"\x89PNG", b"\x00PNG"))
    with pytest.raises(CorruptShardError):
        take(reader, 1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("fetch", "decode", "order"))]


def test_the_same_over_fsspec(squares: str, open_reader: Any) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(squares, "/train/squares", recursive=True)
    one = take(open_reader("memory://train/squares"), 40)
    other = take(open_reader(squares), 40)
    assert keys(one) == keys(other)
    assert all(torch.equal(a.pixels_BCHW, b.pixels_BCHW) for a, b in zip(one, other, strict=True))
    memory.rm("/train", recursive=True)


def test_a_look_at_what_comes_next_uses_nothing_up(squares: str, open_reader: Any) -> None:
    with open_reader(squares) as reader:
        seen = reader.peek()
        assert reader.position == 0
        assert next(iter(reader)).keys == seen.keys


def run_with(reader: ShardReader, dataset: str) -> Run:
    """A run that reads, without networks."""
    values = {"train_data_dir": dataset, "condition": ("canny",), "pretrained_model_name_or_path": "base"}
    nothing: Any = None
    place = Place(0, 1, torch.device("cpu"))
    config = TrainConfig.model_validate(values)
    return Run(config, place, base=nothing, controlnets=nothing, engine=nothing, reader=reader)


def test_a_dataset_that_grew_goes_on_with_the_next_epoch_and_the_same_probe(tmp_path: Path, open_reader: Any) -> None:
    dataset = write_training_set(tmp_path, num_rows=48, rows_per_shard=24)
    first = open_reader(dataset, num_probe_rows=4)
    take(first, 13)
    state = first.state_dict()
    assert (state["epoch"], state["sample"]) == (1, 52 - 44)

    write_training_set(tmp_path, num_rows=72, rows_per_shard=24, incremental_mode="extend")
    grown = open_reader(dataset, num_probe_rows=4, num_probe_shards=state["num_probe_shards"])
    assert grown.samples_per_epoch == 44 + 24
    assert grown.held_out().keys == first.held_out().keys
    grown.load_state_dict(state)
    assert grown.position == 2 * grown.samples_per_epoch
    run = run_with(grown, dataset)
    run.samples_seen = 52
    assert run.epoch == 2.0
    epoch = take(grown, 17)
    assert len({key for batch in epoch for key in batch.keys}) == 68
    assert {number for batch in epoch for number in batch.epochs} == {2}
    assert run.epoch == 3.0
    assert grown.state_dict()["num_probe_shards"] == 2

    again = open_reader(dataset, num_probe_rows=4, num_probe_shards=2)
    again.load_state_dict(grown.state_dict())
    assert again.position == grown.position
    with pytest.raises(ConfigError, match="have changed since"):
        again.load_state_dict({**state, "dataset": "another"})
