from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from controlmill.testing.pictures import photo
from tasks.annotators.base import Annotation, Annotator


@pytest.mark.parametrize("coarse", [False, True])
def test_largest_difference_to_controlnet_aux_is_zero(
    ready: Callable[..., Annotator], theirs: Callable[[str], Any], *, coarse: bool
) -> None:
    """Equal, measured with torch 2.12 on a CPU; one level is allowed for other kernels."""
    image = photo(192, 128)
    made = [ready("lineart", coarse=which)([image], ["0"])[0] for which in (False, True)]
    ours = made[coarse]
    assert isinstance(ours, Annotation)
    same = theirs("LineartDetector")(
        image, coarse=coarse, detect_resolution=128, image_resolution=128, output_type="np"
    )
    assert np.abs(ours.map.astype(int) - same[:, :, 0]).max() <= 1
    assert ours.columns == {"empty": False}
    # the two generators are different files
    assert (made[0].map != made[1].map).any()  # type: ignore[union-attr]


def test_only_the_wanted_weights_are_needed(make: Callable[..., Annotator]) -> None:
    assert [file.filename for file in make("lineart").needed_weights()] == ["sk_model.pth"]
    assert [file.filename for file in make("lineart", coarse=True).needed_weights()] == ["sk_model2.pth"]
