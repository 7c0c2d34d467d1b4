from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from controlmill.config import TrainConfig
from controlmill.errors import PreflightError
from controlmill.testing.training_set import give_hints_of_other_images, write_training_set
from training.batch import Batch
from training.controlnet import ControlNets, create
from training.estimate import Cost, memory_bytes
from training.place import Place
from training.preflight import preflight, refuse_if_wrong
from training.preflight_rows import (
    Finding,
    check_alignment,
    check_channel_order,
    check_hints,
    check_layers,
    check_pixels,
    check_prompts,
)
from training.reader.hints import HintKind
from training.setup import load_base, open_reader
from training.step import Step

if TYPE_CHECKING:
    from training.base_model import BaseModel
    from training.reader.reader import ShardReader

CPU = Place(0, 1, torch.device("cpu"))
LINES = HintKind("canny", "map", has_people=False, polarity="white_on_black", channel_order="L")


@pytest.fixture
def rows() -> Batch:
    """Squares at places of their own, and hints of their outlines."""
    pixels, hints = torch.full((4, 3, 64, 64), -0.5), torch.zeros(4, 3, 64, 64)
    for row in range(4):
        top = 4 + 12 * row
        pixels[row, :, top : top + 12, 20:44] = 0.75
        hints[row, :, top : top + 12, 20] = hints[row, :, top : top + 12, 43] = 1.0
        hints[row, :, top, 20:44] = hints[row, :, top + 11, 20:44] = 1.0
    return Batch(tuple("abcd"), (0,) * 4, (hints,), ("a square", "", "one", "two"), pixels_BCHW=pixels)


def wrong(findings: list[Finding]) -> list[str]:
    return [finding.name for finding in findings if finding.is_wrong]


def test_good_rows_pass(rows: Batch) -> None:
    assert wrong([*check_hints(rows), *check_pixels(rows), *check_prompts(rows), *check_layers(rows, [LINES])]) == []
    assert not check_alignment(rows, LINES).is_wrong


def test_hints_in_another_range_are_told(rows: Batch) -> None:
    (finding,) = check_hints(replace(rows, maps=(rows.hints[0] * 2 - 1,)))
    assert finding.is_wrong
    assert finding.said == "-1 to 1 instead of 0 to 1"


def test_hints_that_show_nothing_are_told(rows: Batch) -> None:
    (finding,) = check_hints(replace(rows, maps=(torch.ones_like(rows.hints[0]),)))
    assert finding.is_wrong
    assert "none of 4 shows anything" in finding.said


def test_pixels_in_another_range_are_told(rows: Batch) -> None:
    assert rows.pixels_BCHW is not None
    assert wrong(check_pixels(replace(rows, pixels_BCHW=rows.pixels_BCHW + 0.5))) == ["pixels"]
    assert wrong(check_pixels(replace(rows, pixels_BCHW=rows.pixels_BCHW[..., :32]))) == ["size"]


def test_prompts_that_are_all_empty_are_told(rows: Batch) -> None:
    assert wrong(check_prompts(replace(rows, prompts=("", " ", "", "")))) == ["prompts"]
    assert check_prompts(rows)[0].said == "1 of 4 are empty before any is dropped"


def test_lines_of_other_rows_are_refused_and_other_maps_only_told(rows: Batch) -> None:
    assert "no better" not in check_alignment(rows, LINES).said
    others = replace(rows, maps=(rows.hints[0].roll(1, 0),))
    finding = check_alignment(others, LINES)
    assert "no better than those of other rows" in finding.said
    assert finding.is_wrong
    pose = check_alignment(others, replace(LINES, layer="openpose", polarity="none"))
    assert (pose.said, pose.is_wrong) == (finding.said, False)


def test_maps_that_are_not_what_their_layer_says_are_told(rows: Batch) -> None:
    dark_on_bright = replace(rows, maps=(1 - rows.hints[0],))
    (finding,) = check_layers(dark_on_bright, [LINES])
    assert (finding.name, finding.is_wrong) == ("polarity", True)
    assert "canny says white on black, and 9" in finding.said
    assert check_layers(dark_on_bright, [replace(LINES, polarity="none")]) == []
    (finding,) = check_layers(rows, [replace(LINES, channel_order="BGR")])
    assert (finding.name, finding.is_wrong) == ("channel order", True)


class Files:
    """What a test works with: options, base, ControlNet and reader of a run."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.reader: ShardReader = open_reader(config, CPU)
        self.base: BaseModel = load_base(config, CPU, self.reader)
        self.nets: ControlNets = create(self.base, config, config.seed)

    def wrong(self) -> dict[str, str]:
        found = preflight(self.config, CPU, self.base, self.nets, self.reader)
        return {finding.name: finding.said for finding in found if finding.is_wrong}


@pytest.fixture
def files(tiny_sd: Callable[..., Path], tmp_path: Path) -> Iterator[Files]:
    values: dict[str, Any] = {
        "train_data_dir": write_training_set(tmp_path, num_rows=24, size=64),
        "condition": ("canny",),
        "pretrained_model_name_or_path": str(tiny_sd()),
        "resolution": 64,
        "train_batch_size": 2,
        "num_probe_rows": 0,
    }
    made = Files(TrainConfig.model_validate(values))
    with made.reader:
        yield made


def test_a_run_as_it_should_be_passes_and_leaves_no_gradient(files: Files) -> None:
    assert files.wrong() == {}
    assert all(parameter.grad is None for parameter in files.nets.parameters())


def test_hints_of_other_images_are_refused(files: Files) -> None:
    give_hints_of_other_images(files.config.train_data_dir)
    assert files.wrong().keys() == {"alignment"}


def test_a_controlnet_that_disturbs_at_once_is_refused(files: Files) -> None:
    with torch.no_grad():
        next(iter(files.nets.groups()["connections"].values())).add_(0.1)
    assert files.wrong() == {"step 0": "the first output is not the base's"}


def test_a_controlnet_that_no_gradient_reaches_is_refused(files: Files) -> None:
    # its outputs are cut off, as by a detach in a network of one's own
    files.nets.register_forward_hook(lambda *given: given[2]._replace(
        down=tuple(one.detach().requires_grad_() for one in given[2].down),
        middle=given[2].middle.detach().requires_grad_(),
    ))  # fmt: skip
    wrong = files.wrong()
    assert wrong.keys() == {"gradients"}
    assert wrong["gradients"].startswith("reach 0 of ")


def test_a_base_that_is_not_frozen_is_refused(files: Files) -> None:
    files.base.unlock_decoder()
    assert files.wrong().keys() == {"base"}


def test_a_net_of_an_unknown_order_of_channels_is_refused(files: Files) -> None:
    (net,) = files.nets.nets
    assert not check_channel_order(files.nets, files.reader.hint_kinds).is_wrong
    net.register_to_config(controlnet_conditioning_channel_order="gbr")  # type: ignore[operator]
    assert check_channel_order(files.nets, files.reader.hint_kinds).is_wrong


def test_a_batch_that_is_too_large_is_a_finding(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_given: object, **_options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Step, "losses", too_large)
    (said,) = files.wrong().values()
    assert "a batch of 2 does not fit into the GPU: CUDA out of memory" in said
    assert "gradient_checkpointing" in said


def test_the_memory_of_averages_and_of_an_unlocked_decoder_is_counted(files: Files) -> None:
    cost = Cost(1.0, 1.0, None)

    def needed(**changes: Any) -> int:
        options = files.config.model_copy(update=changes)
        return memory_bytes(options, files.base, files.nets, cost, CPU.device)[0]

    plain = needed()
    assert needed(use_ema=True) - plain == 4 * sum(one.numel() for one in files.nets.parameters())
    num_open = sum(one.numel() for one in files.base.decoder_parameters().values())
    for changes in ({"sd_locked": False}, {"unlock_at_step": 5}, {"on_following": ("unlock_base",)}):
        assert needed(**changes) - plain == 12 * num_open
    files.base.unet.bfloat16()
    num_all = sum(one.numel() for one in files.base.unet.parameters())
    assert needed(sd_locked=False) - needed() == 12 * num_open + 2 * num_all


def test_everything_that_is_wrong_is_named_at_once() -> None:
    findings = [Finding("a", "x", is_wrong=True), Finding("b", "y"), Finding("c", "z", is_wrong=True)]
    with pytest.raises(PreflightError, match="preflight: a: x; c: z"):
        refuse_if_wrong(findings)
    refuse_if_wrong(findings[1:2])
