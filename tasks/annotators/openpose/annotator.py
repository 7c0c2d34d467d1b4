"""OpenPose as an annotator."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import model_validator

from controlmill.config.base import Options
from storage.weights.reference import FoundWeights, WeightsFile
from storage.weights.tensors import read_tensors
from tasks.annotators.base import Annotation, Resources
from tasks.annotators.checkpoint import fill
from tasks.annotators.network import NetworkAnnotator, NetworkOptions, annotators_file, loaded
from tasks.annotators.openpose.body import find_joints
from tasks.annotators.openpose.details import NUM_FACE, Points, find_faces, find_hands
from tasks.annotators.openpose.draw import draw_body, draw_face, draw_hand, keypoints
from tasks.annotators.openpose.people import Person, find_people
from tasks.images.types import Pixels

if TYPE_CHECKING:
    from torch import nn

BODY_WEIGHTS: Final = annotators_file(
    "body_pose_model.pth", "25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746"
)
HAND_WEIGHTS: Final = annotators_file(
    "hand_pose_model.pth", "b76b00d1750901abd07b9f9d8c98cc3385b8fe834a26d4b4f0aad439e75fc600"
)
FACE_WEIGHTS: Final = annotators_file("facenet.pth", "8beb52e548624ffcc4aed12af7aee7dcbfaeea420c75609fee999fe7add79d43")
_KEYPOINTS = pa.list_(pa.float32())


class OpenposeOptions(NetworkOptions):
    """What is looked for and drawn; bodies are always looked for, for they tell where hands and faces are."""

    include_body: bool = True
    """Draw bodies."""
    include_hand: bool = False
    """Look for hands and draw them; takes about thirty times the body's time for each hand."""
    include_face: bool = False
    """Look for faces and draw them."""

    @model_validator(mode="after")
    def _draws_something(self) -> Self:
        if not (self.include_body or self.include_hand or self.include_face):
            raise ValueError(
                "include_body: false without include_hand or include_face draws nothing, and every map would be black"
            )
        return self


@dataclass(slots=True)
class _Found:
    """One person, and the details of them."""

    person: Person
    left_hand: Points | None = None
    right_hand: Points | None = None
    face: Points | None = None


@dataclass(frozen=True, slots=True)
class _Square:
    """Where in which image a detail of somebody is looked for."""

    pixels: Pixels
    left: int
    top: int
    put: Callable[[Points], None] = field(repr=False)


class Openpose(NetworkAnnotator):
    """People as coloured bones and joints on black.

    `people` holds what was found, in the names of OpenPose's own JSON: for each person x, y (pixels of the image) and
    score of 18 joints (COCO's order with the neck after the nose), 21 points of each hand and 70 of the face, one
    number after the other, zeros for what was not found; null for a hand or face that was not looked for or not there.
    The flag `empty` says that nothing was drawn. The weights are CMU's, for non-commercial use.
    """

    name = "openpose"
    version: ClassVar[str] = "1"
    options_model: ClassVar[type[Options]] = OpenposeOptions
    resources: ClassVar[Resources] = Resources(num_cpus=1.0, num_gpus=0.25, memory_bytes=3 * 1024**3)
    channels: ClassVar[Literal[1, 3]] = 3
    flags: ClassVar[tuple[str, ...]] = ("empty",)
    weights: ClassVar[tuple[WeightsFile, ...]] = (BODY_WEIGHTS, HAND_WEIGHTS, FACE_WEIGHTS)
    options: OpenposeOptions

    @classmethod
    def columns(cls) -> list[pa.Field]:
        """How many people, whether the map is black, and the people."""
        names = ("pose_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d", "face_keypoints_2d")
        person = pa.struct([pa.field("score", pa.float32()), *(pa.field(name, _KEYPOINTS) for name in names)])
        return [pa.field("num_people", pa.int32()), *super().columns(), pa.field("people", pa.list_(person))]

    def needed_weights(self) -> tuple[WeightsFile, ...]:
        """The body's, and those of the details that are looked for."""
        hand = (HAND_WEIGHTS,) if self.options.include_hand else ()
        face = (FACE_WEIGHTS,) if self.options.include_face else ()
        return (BODY_WEIGHTS, *hand, *face)

    def build(self, found: Sequence[FoundWeights]) -> "nn.Module":
        """The networks that are needed, by name."""
        from controlnet_aux.open_pose import util
        from controlnet_aux.open_pose.face import FaceNet
        from controlnet_aux.open_pose.model import bodypose_model, handpose_model
        from torch import nn

        self._hand_squares, self._face_square, self._body_result = util.handDetect, util.faceDetect, util.BodyResult
        networks = nn.ModuleDict()
        for one in found:
            if one.file.filename == FACE_WEIGHTS.filename:
                networks["face"] = loaded(FaceNet(), one)
                continue
            is_body = one.file.filename == BODY_WEIGHTS.filename
            network = bodypose_model() if is_body else handpose_model()
            # the file names layers as Caffe did, the network puts the name of a stage before each
            stages = {name.partition(".")[2]: name for name in network.state_dict()}
            state = {stages.get(name, name): value for name, value in read_tensors(one.path).items()}
            fill(network, state, one.path)
            networks["body" if is_body else "hand"] = network
        return networks

    def work(self, images: Sequence[Pixels]) -> list[Annotation]:
        """One drawing per image, all of one size."""
        fields = find_joints(self.network["body"], images, self.device)
        found = [[_Found(person) for person in find_people(one)] for one in fields]
        self._add_details(images, found)
        return [self._annotation(image, people) for image, people in zip(images, found, strict=True)]

    def _add_details(self, images: Sequence[Pixels], found: list[list[_Found]]) -> None:
        """Look for hands and faces of everybody in the batch at once."""
        bodies = [
            (np.ascontiguousarray(image[:, :, ::-1]), one)
            for image, people in zip(images, found, strict=True)
            for one in people
        ]
        if self.options.include_hand:
            squares = [square for bgr, one in bodies for square in self._hands_of(bgr, one)]
            self._look(squares, lambda pixels: find_hands(self.network["hand"], pixels, self.device, self.batch_size))
        if self.options.include_face:
            squares = [square for bgr, one in bodies for square in self._face_of(bgr, one)]
            self._look(squares, lambda pixels: find_faces(self.network["face"], pixels, self.device, self.batch_size))

    def _hands_of(self, bgr: Pixels, one: _Found) -> Iterator[_Square]:
        for left, top, side, is_left in self._hand_squares(self._as_body(one), bgr):
            name = "left_hand" if is_left else "right_hand"
            yield _square(bgr, (left, top, side), one, name)

    def _face_of(self, bgr: Pixels, one: _Found) -> Iterator[_Square]:
        place = self._face_square(self._as_body(one), bgr)
        if place is not None:
            yield _square(bgr, place, one, "face")

    def _as_body(self, one: _Found) -> Any:
        return self._body_result(keypoints(one.person.joints), one.person.score, 0)

    @staticmethod
    def _look(squares: list[_Square], find: Callable[[list[Pixels]], list[Points]]) -> None:
        if not squares:
            return
        for square, points in zip(squares, find([square.pixels for square in squares]), strict=True):
            # the first row and column of a square count as "not found", as they do for controlnet_aux
            points[(points[:, :2] < 1).any(axis=1)] = np.nan
            square.put(points + np.array([square.left, square.top, 0]))

    def _annotation(self, image: Pixels, people: list[_Found]) -> Annotation:
        canvas = np.zeros_like(image)
        for one in people:
            if self.options.include_body:
                draw_body(canvas, one.person.joints)
            for hand in (one.left_hand, one.right_hand):
                if hand is not None:
                    draw_hand(canvas, hand)
            if one.face is not None:
                draw_face(canvas, one.face)
        rows = [_row(one) for one in people]
        return Annotation(canvas, {"num_people": len(people), "empty": not canvas.any(), "people": rows})


def _square(bgr: Pixels, place: tuple[int, int, int], one: _Found, name: str) -> _Square:
    left, top, side = place
    return _Square(bgr[top : top + side, left : left + side], left, top, lambda points: setattr(one, name, points))


def _row(one: _Found) -> dict[str, Any]:
    return {
        "score": one.person.score,
        "pose_keypoints_2d": _flat(one.person.joints),
        "hand_left_keypoints_2d": _flat(one.left_hand),
        "hand_right_keypoints_2d": _flat(one.right_hand),
        "face_keypoints_2d": _flat(one.face),
    }


def _flat(points: NDArray[np.float64] | None) -> list[float] | None:
    if points is None:
        return None
    there: list[float] = np.nan_to_num(points[:NUM_FACE]).ravel().tolist()
    return there
