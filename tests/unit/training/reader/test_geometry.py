"""What is cut out: covers the target, image and hint alike, and mirrored as the condition allows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from controlmill.config import validate
from controlmill.config.training_data import GeometryOptions
from controlmill.errors import ConfigError
from controlmill.testing.poses import standing
from controlmill.testing.training_set import write_training_set
from storage.people import BODY, FACE, LEFT_HAND, RIGHT_HAND, draw_people, mirrored
from storage.schema import layer_schema
from tasks.images.encode import encode_map
from training.reader.geometry import View, bucket_sizes, center_view, cut, plan_of, view_of
from training.reader.hints import HintKind
from training.reader.rows import StoredHint

BUCKETS = GeometryOptions(enable_bucket=True)


def test_buckets_are_kohyas() -> None:
    """The list of kohya's `make_bucket_resolutions((512, 512), 256, 1024, 64)`."""
    assert bucket_sizes(BUCKETS) == (
        (256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640), (448, 576), (512, 512),
        (576, 448), (640, 384), (704, 320), (768, 320), (832, 256), (896, 256), (960, 256), (1024, 256),
    )  # fmt: skip
    assert bucket_sizes(GeometryOptions(resolution=64)) == ((64, 64),)


@settings(deadline=None, max_examples=50)
@given(
    width=st.integers(16, 3000),
    height=st.integers(16, 3000),
    center_crop=st.booleans(),
    enable_bucket=st.booleans(),
    key=st.text(max_size=5),
)
def test_a_view_lies_within_the_image(
    width: int, height: int, *, center_crop: bool, enable_bucket: bool, key: str
) -> None:
    options = GeometryOptions(center_crop=center_crop, enable_bucket=enable_bucket, random_flip=True)
    plan = plan_of(width, height, bucket_sizes(options))
    view = view_of(plan, options, seed=1, epoch=2, key=key)
    assert plan.target in bucket_sizes(options)
    for start, part, whole in zip((view.left, view.top), view.target, view.resized, strict=True):
        assert 0 <= start <= start + part <= whole
    assert any(part == whole for part, whole in zip(view.target, view.resized, strict=True))
    if not center_crop:
        assert view.left % 8 == view.top % 8 == 0
    assert center_view(plan, step=8).left % 8 == 0


def test_the_nearest_aspect_ratio_wins() -> None:
    sizes = bucket_sizes(BUCKETS)
    assert plan_of(640, 480, sizes).target == (576, 448)
    assert plan_of(480, 640, sizes).target == (448, 576)
    assert plan_of(4000, 400, sizes).target == (1024, 256)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resolution": 100}, "resolution: 100 is not a multiple of 8, use for example 96"),
        ({"enable_bucket": True, "bucket_reso_steps": 12}, "bucket_reso_steps: 12 is not a multiple of 8"),
        ({"enable_bucket": True, "resolution": 2048}, "not between min_bucket_reso 256 and max_bucket_reso 1024"),
    ],
)
def test_impossible_geometry(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(GeometryOptions, values)


def test_image_and_hint_are_cut_and_mirrored_alike(tmp_path: Path, open_reader: Any) -> None:
    """The edges of what is seen lie where the edges of its hint do."""
    dataset = write_training_set(tmp_path, 40, 64, sizes=[(96, 64), (64, 128)])
    reader = open_reader(dataset, center_crop=False, random_flip=True, batch_size=40)
    with reader:
        batch = next(iter(reader))
    jumps = (batch.pixels_BCHW[..., 1:] - batch.pixels_BCHW[..., :-1]).abs().amax(dim=1)
    edges = batch.hints[0][:, 0]
    # a canny edge stands at one of the two columns of a jump, or between rows
    near = torch.maximum(edges[..., 1:], edges[..., :-1]) > 0
    assert len(jumps[jumps > 0.8]) > 500
    assert near[jumps > 0.8].float().mean() > 0.99
    assert near.float().mean() < 0.2


def test_a_bucket_reader_gives_batches_of_one_size(oblongs: str, open_reader: Any) -> None:
    options = {"enable_bucket": True, "min_bucket_reso": 32, "max_bucket_reso": 128, "bucket_reso_steps": 16}
    reader = open_reader(oblongs, batch_size=2, gradient_accumulation_steps=2, **options)
    assert reader.samples_per_epoch == 84  # of 3 x 30 rows, 28 of each bucket fill updates of 4
    with reader:
        batches = iter(reader)
        found = [next(batches) for _ in range(42)]
    sizes = {tuple(batch.pixels_BCHW.shape[2:]) for batch in found}
    assert len(sizes) == 3
    for one, other in zip(found[::2], found[1::2], strict=True):
        assert one.pixels_BCHW.shape == other.pixels_BCHW.shape == one.hints[0].shape
    assert len({key for batch in found for key in batch.keys}) == 84
    state = reader.state_dict()
    resumed = open_reader(oblongs, batch_size=1, world_size=2, rank=1, **options)
    resumed.load_state_dict(state)
    with pytest.raises(ConfigError, match="updates of 4 rows of one bucket cannot be cut into batches of 3"):
        open_reader(oblongs, batch_size=3, **options).load_state_dict(state)
    with pytest.raises(ConfigError, match="no bucket has the 64 rows of one update"):
        open_reader(oblongs, batch_size=64, **options)


def test_flips_that_would_be_wrong() -> None:
    """Normals point to a side; class ids have no between."""
    normals = np.zeros((8, 8, 3), np.uint8)
    normals[..., 0] = 200
    mirrored = View((8, 8), (8, 8), 0, 0, flipped=True)
    for content, channel in (("normals_xyz", 0), ("normals_zyx", 2)):
        kind = HintKind.of("normal", layer_schema([], {"content": content}))
        seen = kind.cut(StoredHint(encode_map(normals)), mirrored)
        assert seen[0, 0, channel] == 255 - normals[0, 0, channel]
    ids = np.array([[0, 149]], np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    classes = HintKind.of("segmentation", layer_schema([], {"content": "class_ids"}))
    seen = classes.cut(StoredHint(encode_map(ids)), View((8, 4), (8, 4), 0, 0, flipped=False))
    assert seen.shape == (4, 8, 3)
    assert len(np.unique(seen.reshape(-1, 3), axis=0)) == 2


def test_a_cut_that_changes_nothing_copies_nothing() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert np.shares_memory(cut(pixels, View((8, 8), (8, 8), 0, 0, flipped=False)), pixels)


def test_mirrored_people_are_drawn_anew() -> None:
    joints = np.column_stack([standing(left=0.1, size=0.8) * (96, 64), np.ones(18)])
    person = {BODY: joints.ravel().tolist(), LEFT_HAND: None, RIGHT_HAND: None, FACE: None}
    drawing = draw_people([person], 64, 96)
    kind = HintKind.of("openpose", layer_schema([pa.field("people", pa.list_(pa.int32()))]))
    stored = StoredHint(encode_map(drawing), [person])
    crop = View((96, 64), (64, 64), 8, 0, flipped=True)
    seen = kind.cut(stored, crop)
    assert (seen == draw_people(mirrored([person], 96), 64, 96)[:, 24:88]).all()
    # as far as shapes go it is the mirrored drawing, but for the rounding of ellipses
    plain = cut(drawing, crop)
    both, either = (seen.any(2) & plain.any(2)).sum(), (seen.any(2) | plain.any(2)).sum()
    assert both > 0.8 * either
    # the right arm, at the left of the image, keeps the colour that a right arm has
    x, y, _ = joints[4].astype(int)
    assert (
        drawing[y, x] == kind.cut(stored, replace(crop, left=8))[int(joints[7, 1]), 95 - int(joints[7, 0]) - 24]
    ).all()


def test_mirrored_hands_without_bodies_stay_so() -> None:
    joints = np.column_stack([standing(left=0.1, size=0.8) * (96, 64), np.ones(18)]).ravel().tolist()
    hand = np.column_stack([np.linspace(20, 40, 21), np.linspace(10, 30, 21), np.ones(21)]).ravel().tolist()
    person = {BODY: joints, LEFT_HAND: hand, RIGHT_HAND: None, FACE: None}
    schema = layer_schema([pa.field("people", pa.list_(pa.int32()))])
    kind = HintKind.of("openpose", schema, {"include_body": False, "include_hand": True})
    stored = StoredHint(encode_map(draw_people([person], 64, 96, body=False)), [person])
    seen = kind.cut(stored, View((96, 64), (96, 64), 0, 0, flipped=True))
    assert seen.any()
    assert (seen == draw_people(mirrored([person], 96), 64, 96, body=False)).all()
