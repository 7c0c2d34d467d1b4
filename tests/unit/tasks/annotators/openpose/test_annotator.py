from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from controlmill.errors import ConfigError
from controlmill.reasons import RowFailure
from controlmill.testing.pictures import photo
from controlmill.testing.poses import draw_maps, standing
from controlmill.testing.random_weights import write_weights
from tasks.annotators.base import Annotation, Annotator
from tasks.annotators.network import foreign_imports
from tasks.annotators.openpose.annotator import Openpose
from tasks.annotators.openpose.details import NUM_FACE, NUM_HAND
from tasks.annotators.openpose.people import LIMBS
from tasks.annotators.registry import create

SIZE = 256
CELLS = 23
IMAGE = photo(SIZE, SIZE)


def annotated(annotator: Annotator, image: np.ndarray = IMAGE) -> Annotation:
    (made,) = annotator([image], ["0"])
    assert isinstance(made, Annotation), made
    return made


class Maps(torch.nn.Module):
    """Instead of the body's network: the maps of known people, whatever the picture shows."""

    def __init__(self, *people: np.ndarray) -> None:
        super().__init__()
        self.anything = torch.nn.Parameter(torch.zeros(1))
        self.maps = [torch.from_numpy(maps) for maps in draw_maps(people, LIMBS, CELLS, CELLS)]

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(maps.expand(len(pixels), -1, -1, -1) for maps in self.maps)


@pytest.fixture
def with_people(ready: Callable[..., Annotator]) -> Iterator[Openpose]:
    """OpenPose for bodies, that sees two people."""
    openpose = ready("openpose")
    assert isinstance(openpose, Openpose)
    before = openpose.network["body"]
    openpose.network["body"] = Maps(standing(0.0, 0.02, 0.6), standing(0.4, 0.2, 0.6, seed=1))
    yield openpose
    openpose.network["body"] = before


def test_largest_difference_to_controlnet_aux_with_its_own_network_is_zero(
    ready: Callable[..., Annotator], theirs: Callable[[str], Any], weights_folder: Any
) -> None:
    """Drawings are equal, measured with torch 2.12 on a CPU, with full-size random networks."""
    ready("openpose")
    write_weights(weights_folder, "hand_pose_model.pth", "facenet.pth")
    detector = theirs("OpenposeDetector")
    num_people = 0
    for width, height in ((256, 256), (128, 192)):
        image = photo(width, height, seed=3)
        made = annotated(ready("openpose"), image)
        same = detector(
            image, detect_resolution=min(width, height), image_resolution=min(width, height), output_type="np"
        )
        assert (made.map == same).all()
        num_people += made.columns["num_people"]
    assert num_people > 0


def test_largest_difference_of_a_drawing_of_known_people_is_zero(with_people: Openpose) -> None:
    with foreign_imports():
        from controlnet_aux import OpenposeDetector
        from controlnet_aux.open_pose.body import Body
    body: Any = Body.__new__(Body)
    body.model = with_people.network["body"]
    same = OpenposeDetector(body)(IMAGE, detect_resolution=SIZE, image_resolution=SIZE, output_type="np")
    made = annotated(with_people)
    assert (made.map == same).all()
    assert made.map.any()
    assert made.columns["num_people"] == 2
    assert made.columns["empty"] is False


def test_keypoints_are_stored_as_openpose_writes_them(with_people: Openpose) -> None:
    people = annotated(with_people).columns["people"]
    assert len(people) == 2
    for person in people:
        joints = np.array(person["pose_keypoints_2d"]).reshape(18, 3)
        there = joints[:, 2] > 0
        assert there.sum() >= 16
        assert (joints[there, :2] >= 0).all()
        assert (joints[there, :2] < SIZE).all()
        assert (joints[~there] == 0).all()
        assert person["face_keypoints_2d"] is person["hand_left_keypoints_2d"] is None
        assert person["score"] > 0.4


def test_nobody_is_flagged(ready: Callable[..., Annotator]) -> None:
    openpose: Any = ready("openpose")
    before = openpose.network["body"]
    openpose.network["body"] = Maps()
    try:
        made = annotated(openpose)
    finally:
        openpose.network["body"] = before
    assert made.columns == {"num_people": 0, "empty": True, "people": []}
    assert not made.map.any()


def test_a_picture_too_long_for_its_width_is_its_own_failure(with_people: Openpose) -> None:
    long = np.zeros((20, 900, 3), np.uint8)
    first, failure, last = with_people([IMAGE, long, IMAGE], ["0", "1", "2"])
    assert isinstance(first, Annotation)
    assert isinstance(last, Annotation)
    assert isinstance(failure, RowFailure)
    assert "too long for its width" in failure.message


class Points(torch.nn.Module):
    """Instead of a network of details: a bright place in each map, further right and down from map to map."""

    def __init__(self, num_maps: int) -> None:
        super().__init__()
        self.num_maps = num_maps

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        cells = pixels.shape[2] // 8
        maps = torch.zeros(len(pixels), self.num_maps, cells, cells)
        for number in range(self.num_maps):
            at = cells // 4 + number * cells // 2 // self.num_maps
            maps[:, number, at, at] = 1.0
        return maps


@pytest.mark.parametrize(("body", "hand", "face"), [(True, True, True), (False, False, True), (False, True, False)])
def test_largest_difference_of_hands_and_faces_is_zero(
    ready: Callable[..., Annotator], *, body: bool, hand: bool, face: bool
) -> None:
    """Drawings are equal to controlnet_aux's."""
    openpose: Any = ready("openpose", include_body=body, include_hand=hand, include_face=face)
    before = dict(openpose.network.items())
    openpose.network["body"] = Maps(standing(0.05, 0.05, 0.9))
    networks = {"hand": Points(NUM_HAND + 1), "face": _Stages(Points(NUM_FACE + 1))}
    for name, network in networks.items():
        if name in before:
            openpose.network[name] = network
    try:
        made = annotated(openpose)
        same = _theirs(openpose, networks, body=body, hand=hand, face=face)
    finally:
        openpose.network.update(before)
    assert (made.map == same).all()
    assert made.map.any()
    (person,) = made.columns["people"]
    assert (person["hand_left_keypoints_2d"] is not None) == (person["hand_right_keypoints_2d"] is not None) == hand
    assert (person["face_keypoints_2d"] is not None) == face
    if face:
        assert len(person["face_keypoints_2d"]) == 3 * NUM_FACE
    if hand:
        assert len(person["hand_left_keypoints_2d"]) == 3 * NUM_HAND


class _Stages(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        return [self.network(pixels)]


def _theirs(openpose: Any, networks: dict[str, Any], *, body: bool, hand: bool, face: bool) -> np.ndarray:
    """The drawing by controlnet_aux."""
    with foreign_imports():
        from controlnet_aux import OpenposeDetector
        from controlnet_aux.open_pose import draw_poses
        from controlnet_aux.open_pose.body import Body
        from controlnet_aux.open_pose.face import Face
        from controlnet_aux.open_pose.hand import Hand
    parts: list[Any] = [kind.__new__(kind) for kind in (Body, Hand, Face)]
    for part, network in zip(parts, (openpose.network["body"], networks["hand"], networks["face"]), strict=True):
        network.anything = torch.nn.Parameter(torch.zeros(1))
        part.model = network
    poses = OpenposeDetector(*parts).detect_poses(IMAGE, include_hand=hand, include_face=face)
    return np.asarray(draw_poses(poses, SIZE, SIZE, draw_body=body, draw_hand=hand, draw_face=face))


def test_weights_of_details_are_needed_only_where_they_are_asked_for(make: Callable[..., Annotator]) -> None:
    names = {
        name: [file.filename for file in make(name).needed_weights()]
        for name in ("openpose", "openpose_hand", "openpose_face", "openpose_faceonly", "openpose_full")
    }
    assert names == {
        "openpose": ["body_pose_model.pth"],
        "openpose_hand": ["body_pose_model.pth", "hand_pose_model.pth"],
        "openpose_face": ["body_pose_model.pth", "facenet.pth"],
        "openpose_faceonly": ["body_pose_model.pth", "facenet.pth"],
        "openpose_full": ["body_pose_model.pth", "hand_pose_model.pth", "facenet.pth"],
    }


@pytest.mark.parametrize(
    ("name", "options"), [("openpose", {"include_body": False}), ("openpose_hand", {"include_hand": False})]
)
def test_a_drawing_of_nothing_is_refused(name: str, options: dict[str, bool]) -> None:
    with pytest.raises(ConfigError, match=rf"^annotator_options\.{name}\.include_body: .* every map would be black"):
        create(name, options)
