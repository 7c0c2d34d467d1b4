"""A layer of poses through the reader: mirrored images bring people drawn anew."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from controlmill.testing.poses import standing
from controlmill.testing.training_set import write_training_set
from storage.people import BODY, FACE, LEFT_HAND, RIGHT_HAND, draw_people, mirrored

POSES = '''
"""One person in every image, as the file of a user's own would have it."""

import numpy as np
import pyarrow as pa

from controlmill.config.base import Options
from controlmill.testing.poses import standing
from storage.people import BODY, FACE, LEFT_HAND, RIGHT_HAND, draw_people
from tasks.annotators.base import Annotation, Annotator


class PosesOptions(Options):
    include_body: bool = True


class Poses(Annotator):
    """People."""

    name = "poses"
    version = "1"
    options_model = PosesOptions
    channels = 3

    @classmethod
    def columns(cls):
        points = pa.list_(pa.float32())
        person = pa.struct([pa.field(name, points) for name in (BODY, LEFT_HAND, RIGHT_HAND, FACE)])
        return [pa.field("people", pa.list_(person))]

    def setup(self, device="cpu"):
        pass

    def annotate(self, images, keys):
        return [self._one(image) for image in images]

    def _one(self, image):
        height, width = image.shape[:2]
        joints = np.float32(np.column_stack([standing() * (width, height), np.ones(18)]))
        hand = np.float32(np.column_stack([np.linspace(20, 40, 21), np.linspace(10, 30, 21), np.ones(21)]))
        person = {BODY: joints.ravel().tolist(), LEFT_HAND: hand.ravel().tolist(), RIGHT_HAND: None, FACE: None}
        drawing = draw_people([person], height, width, body=self.options.include_body)
        return Annotation(drawing, {"people": [person]})
'''


@pytest.mark.parametrize("body", [True, False])
def test_mirrored_rows_bring_people_drawn_anew(tmp_path: Path, open_reader: Any, *, body: bool) -> None:
    (tmp_path / "poses.py").write_text(POSES)
    name = f"{tmp_path}/poses.py:Poses"
    options = {"annotators": ("canny", name), "annotator_options": {name: {"include_body": body}}}
    dataset = write_training_set(tmp_path, 16, 64, **options)
    joints = np.float32(np.column_stack([standing() * (64, 64), np.ones(18)]))
    fingers = np.float32(np.column_stack([np.linspace(20, 40, 21), np.linspace(10, 30, 21), np.ones(21)]))
    person = {BODY: joints.ravel().tolist(), LEFT_HAND: fingers.ravel().tolist(), RIGHT_HAND: None, FACE: None}
    plain = hint(draw_people([person], 64, 64, body=body))
    turned = hint(draw_people(mirrored([person], 64), 64, 64, body=body))
    # a mirrored body has other colours than the mirrored drawing of it; a hand has the same
    assert torch.equal(turned, plain.flip(-1)) != body
    assert not torch.equal(turned, hint(draw_people(mirrored([person], 64), 64, 64, body=not body)))
    with open_reader(dataset, condition="poses", random_flip=True, batch_size=8) as reader:
        batches = iter(reader)
        seen = [one for _ in range(4) for one in next(batches).hints[0]]
    kinds = [torch.equal(one, plain) + 2 * torch.equal(one, turned) for one in seen]
    assert set(kinds) == {1, 2}


def hint(drawing: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(drawing).permute(2, 0, 1).float() / 255
