"""When controllability is measured, what is written then, and what a resumed run need not measure again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from controlmill.config import TrainConfig, validate
from controlmill.config.model import ModelOptions
from controlmill.errors import WeightsMissingError
from controlmill.testing.tiny_sd import write_tiny_sd
from storage.stored_image import Pixels, decode_map
from training.base_model import BaseModel
from training.batch import Batch
from training.callbacks.base import UpdateMetrics
from training.callbacks.controllability import ControllabilityCallback
from training.controlnet import ControlNets, create
from training.reader.assemble import Picture

NUM_UPDATES, NUM_ROWS, SIZE = 10, 3, 64


def config(**options: Any) -> TrainConfig:
    needed = {
        "train_data_dir": "data",
        "condition": ["edges"],
        "pretrained_model_name_or_path": "base",
        "output_dir": "out",
        "controllability_num_steps": 1,
        "controllability_guidance_scale": 1.0,
    }
    return validate(TrainConfig, {**needed, **options})


class Bright:
    """Reads back what is brighter than the mean of its image; counts how often."""

    score = "canny"

    def __init__(self) -> None:
        self.num_calls = 0
        self.trouble: Exception | None = None

    def check(self) -> None:
        if isinstance(self.trouble, WeightsMissingError):
            raise self.trouble

    def __call__(self, images: Sequence[Pixels], keys: Sequence[str], device: str) -> list[Any]:
        del keys, device
        self.num_calls += 1
        if self.trouble is not None:
            raise self.trouble
        return [np.uint8(255) * (image.mean(axis=-1) > image.mean()) for image in images]


class Reader:
    num_held_out = NUM_ROWS

    def held_out(self, num_rows: int) -> Batch:
        draw = torch.Generator().manual_seed(2)
        hints = (torch.rand(num_rows, 3, SIZE, SIZE, generator=draw) > 0.9).float()
        keys = tuple(f"row{number}" for number in range(num_rows))
        return Batch(keys, (0,) * num_rows, (hints,), ("red disc",) * num_rows)

    def held_out_pictures(self, num_rows: int) -> list[Picture]:
        images = np.random.default_rng(0).integers(0, 256, (num_rows, SIZE, SIZE, 3), np.uint8)
        return [Picture(image, (np.uint8(255) * (image.mean(axis=-1) > image.mean()),)) for image in images]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return BaseModel.load(str(write_tiny_sd(tmp_path_factory.mktemp("base"), unet_widths=(16, 16, 16, 16))))


@pytest.fixture(scope="module")
def controlnets(base: BaseModel) -> ControlNets:
    options = ModelOptions(
        pretrained_model_name_or_path=str(base.folder), connection_init="gaussian", hint_init="kaiming"
    )
    return create(base, options, seed=0).eval()


class Run:
    """Writes down what the callback asks for; its events are given."""

    rank, world_size, device, num_updates = 0, 1, torch.device("cpu"), NUM_UPDATES
    decoder_is_connected = True

    def __init__(self, base: BaseModel, controlnets: ControlNets, events: Mapping[int, str] | None = None) -> None:
        self.base, self._controlnets, self._events = base, controlnets, events or {}
        self.reader = Reader()
        self.update = 0
        self.announced: list[str] = []
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.lines: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.pictures: dict[str, bytes] = {}
        self.scalars: dict[str, float] = {}
        self.engine = self

    samples_seen = property(lambda self: 4 * self.update)
    epoch = property(lambda self: self.update / 100)
    is_over = property(lambda self: self.update >= self.num_updates)

    def __call__(self, *inputs: Any) -> Any:
        return self._controlnets(*inputs)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        with torch.no_grad():
            yield

    def autocast(self) -> Any:
        return nullcontext()

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def log(self, event: str, **fields: object) -> None:
        self.logged.append((event, fields))

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        assert name == "controllability.jsonl"
        self.lines.append(json.loads(json.dumps(record, allow_nan=False)))

    def announce(self, record: Mapping[str, Any]) -> None:
        self.events.append(dict(record))

    def write(self, name: str, data: bytes) -> None:
        self.pictures[name] = data

    def log_scalar(self, name: str, value: float) -> None:
        self.scalars[name] = value

    def log_image(self, name: str, pixels: Pixels) -> None:
        assert name == "controllability/samples"
        assert pixels.shape[2] == 3

    def go(self, callback: ControllabilityCallback, first: int = 0, last: int = NUM_UPDATES) -> None:
        self.update = first
        self.announced = [name for name in [self._events.get(first)] if name]
        callback.on_train_start(self)  # type: ignore[arg-type]
        for update in range(first + 1, last + 1):
            self.update, self.announced = update, [name for name in [self._events.get(update)] if name]
            metrics = UpdateMetrics(update, 4 * update, update / 100, 0.1, 1e-4, 1.0, 0.4)
            callback.on_update_end(self, metrics)  # type: ignore[arg-type]
        if last == NUM_UPDATES:
            callback.on_train_end(self)  # type: ignore[arg-type]

    def said(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.logged if name == event]


def test_it_waits_for_what_the_probe_announces(base: BaseModel, controlnets: ControlNets) -> None:
    run = Run(base, controlnets, {3: "control_following", 7: "control_settled"})
    callback = ControllabilityCallback(config(controlnet_model_name_or_path="before"), {"edges": Bright()})
    assert callback.summary() == ""
    run.go(callback)
    because = [(line["update"], line["because"]) for line in run.lines]
    assert because == [(0, "start"), (3, "control_following"), (7, "control_settled"), (10, "end")]
    assert sorted(run.pictures) == [f"samples/{update:06d}.png" for update in (0, 3, 7, 10)]
    assert decode_map(run.pictures["samples/000000.png"]).shape == (3 * 68 + 4, NUM_ROWS * 68 + 4, 3)
    line = run.lines[-1]
    assert {"samples_seen", "epoch", "own", "other", "mean_own", "off", "lift", "seconds"} <= line.keys()
    assert (line["measure"], line["real"], len(line["own"])) == ("edges_f1", 1.0, NUM_ROWS)
    assert run.scalars["controllability/edges_f1_own"] == line["mean_own"]
    assert [event["update"] for event in run.events] == [3, 7, 10]
    assert {event["event"] for event in run.events} == {"control_confirmed"}
    assert callback.summary().startswith("Generated images ")
    assert run.said("controllability")[0]["rows"] == NUM_ROWS
    assert len(run.said("controllability_measured")) == 4


def test_every_so_many_updates(base: BaseModel, controlnets: ControlNets) -> None:
    run = Run(base, controlnets)
    run.go(ControllabilityCallback(config(controllability_steps=4), {"edges": Bright()}))
    assert [(line["update"], line["because"]) for line in run.lines] == [
        (0, "start"), (4, "interval"), (8, "interval"), (10, "end"),
    ]  # fmt: skip
    assert run.events == []


def test_what_does_not_change_is_measured_once(base: BaseModel, controlnets: ControlNets) -> None:
    read_back, fine_tuned = Bright(), config(controlnet_model_name_or_path="before")
    first = ControllabilityCallback(fine_tuned, {"edges": read_back})
    run = Run(base, controlnets, {2: "control_following"})
    run.go(first, last=2)
    # now, without control, the real images; and now
    assert read_back.num_calls == 3 + 1
    resumed = ControllabilityCallback(fine_tuned, {"edges": read_back})
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    run.go(resumed, first=2)
    assert read_back.num_calls == 4 + 1
    assert run.lines[-1]["because"] == "end"
    assert run.lines[-1]["off"] == run.lines[0]["off"]
    assert [event["because"] for event in run.events] == ["control_following", "end"]


def test_a_new_controlnet_begins_as_the_base_alone(base: BaseModel) -> None:
    silent = create(base, ModelOptions(pretrained_model_name_or_path=str(base.folder)), seed=0).eval()
    read_back = Bright()
    run = Run(base, silent)
    run.go(ControllabilityCallback(config(), {"edges": read_back}), last=0)
    # now, which is without control too, and the real images
    assert read_back.num_calls == 2
    (line,) = run.lines
    assert (line["mean_own"], line["lift"], line["confirmed"]) == (line["off"], 0.0, None)


def test_a_run_that_follows_already(base: BaseModel, controlnets: ControlNets) -> None:
    run = Run(base, controlnets, {0: "already_following"})
    run.go(ControllabilityCallback(config(controlnet_model_name_or_path="before"), {"edges": Bright()}), last=0)
    assert [(event["update"], event["because"]) for event in run.events] == [(0, "start")]
    assert run.events[0]["confirmed"] in (True, False)


@pytest.mark.parametrize("why", ["no annotator", "weights", "few rows"])
def test_where_it_cannot_be_measured_it_is_said_once(base: BaseModel, controlnets: ControlNets, why: str) -> None:
    run, read_back = Run(base, controlnets, {3: "control_following"}), Bright()
    if why == "weights":
        read_back.trouble = WeightsMissingError("ControlNetHED.pth is not here")
    if why == "few rows":
        run.reader.num_held_out = 1
    run.go(ControllabilityCallback(config(), {} if why == "no annotator" else {"edges": read_back}))
    (said,) = run.said("controllability_off")
    expected = {"no annotator": "no annotator with a score is known for edges", "weights": "ControlNetHED.pth"}
    assert expected.get(why, "1 rows are held out") in said["reason"]
    assert (run.lines, run.events, run.pictures, read_back.num_calls) == ([], [], {}, 0)


def test_trouble_on_the_way_ends_the_measuring_only(base: BaseModel, controlnets: ControlNets) -> None:
    run, read_back = Run(base, controlnets), Bright()
    callback = ControllabilityCallback(config(controllability_steps=2), {"edges": read_back})
    run.go(callback, last=2)
    read_back.trouble = RuntimeError("no such operator")
    run.go(callback, first=2)
    assert [line["update"] for line in run.lines] == [0, 2]
    (said,) = run.said("controllability_off")
    assert "no such operator; nothing more is measured" in said["reason"]
