import pytest

from controlmill.config.image import ImageOptions
from controlmill.reasons import Reason, RowFailure
from tasks.images.plan import Plan, plan_resize


def plan(width: int, height: int, **options: object) -> Plan:
    made = plan_resize(width, height, ImageOptions(**options))
    assert isinstance(made, Plan)
    return made


def _sizes(made: Plan) -> tuple[tuple[int, int], tuple[int, int]]:
    return (made.width, made.height), (made.final_width, made.final_height)


@pytest.mark.parametrize(
    ("mode", "size", "resized", "final"),
    [
        ("no", (641, 427), (641, 427), (641, 427)),
        ("center_crop", (1000, 700), (512, 512), (512, 512)),
        ("center_crop", (300, 200), (512, 512), (512, 512)),
        ("keep_ratio", (1000, 700), (731, 512), (704, 512)),
        ("keep_ratio", (700, 1000), (512, 731), (512, 704)),
        ("keep_ratio_largest", (640, 480), (512, 384), (512, 384)),
        ("keep_ratio_largest", (600, 400), (512, 341), (512, 320)),
        ("border", (600, 400), (512, 341), (512, 512)),
    ],
)
def test_modes_mean_what_they_mean_in_img2dataset_then_multiples_of_64(
    mode: str, size: tuple[int, int], resized: tuple[int, int], final: tuple[int, int]
) -> None:
    assert _sizes(plan(*size, resize_mode=mode)) == (resized, final)


@pytest.mark.parametrize(
    ("mode", "size", "final"),
    [
        ("center_crop", (300, 200), (256, 192)),
        ("keep_ratio", (300, 200), (256, 192)),
        ("border", (300, 200), (256, 192)),
        ("keep_ratio", (600, 400), (576, 384)),  # its shorter side is smaller
        ("keep_ratio_largest", (600, 400), (512, 320)),  # its longer side is bigger
    ],
)
def test_resize_only_if_bigger_leaves_smaller_pictures_their_size(
    mode: str, size: tuple[int, int], final: tuple[int, int]
) -> None:
    assert _sizes(plan(*size, resize_mode=mode, resize_only_if_bigger=True))[1] == final


def test_interpolation_follows_the_direction() -> None:
    options = {
        "resize_mode": "keep_ratio_largest",
        "upscale_interpolation": "cubic",
        "downscale_interpolation": "linear",
    }
    assert plan(1000, 500, **options).interpolation == "linear"
    assert plan(400, 200, **options).interpolation == "cubic"
    assert plan(512, 200, **options).interpolation is None


@pytest.mark.parametrize(
    ("size", "options", "reason"),
    [
        ((1000, 100), {"resize_mode": "keep_ratio_largest"}, Reason.TOO_SMALL),
        ((63, 500), {"resize_mode": "keep_ratio", "resize_only_if_bigger": True}, Reason.TOO_SMALL),
        ((20, 100_000), {"resize_mode": "keep_ratio"}, Reason.TOO_MANY_PIXELS),
        ((70_000, 100), {"resize_mode": "no"}, Reason.TOO_MANY_PIXELS),
        ((20_000, 100), {"resize_mode": "no", "encode_format": "webp"}, Reason.TOO_MANY_PIXELS),
    ],
)
def test_what_cannot_be_stored_is_refused(size: tuple[int, int], options: dict[str, object], reason: Reason) -> None:
    failure = plan_resize(*size, ImageOptions(**options))
    assert isinstance(failure, RowFailure)
    assert failure.reason is reason


def test_a_long_strip_is_cut_before_it_grows() -> None:
    assert _sizes(plan(20, 100_000, resize_mode="center_crop")) == ((512, 512), (512, 512))
