"""What the pools of one run are given, on clusters that are only described."""

import pytest

from controlmill.config import EngineOptions
from controlmill.errors import EngineStartError
from controlmill.progress import SilentObserver, observe
from flows.annotating import annotator_recipes
from flows.sharing import Cluster, Demand, Share, announced_device, shares
from tasks.annotators.base import Resources
from tasks.annotators.registry import create

NETWORK = Demand(num_cpus=1.0, num_gpus=0.25)
CAPTIONER = Demand(num_cpus=4.0, num_gpus=1.0)


def cluster(num_cpus: float = 16.0, num_gpus: float = 0.0) -> Cluster:
    return Cluster(num_cpus, num_gpus, num_cpus)


def test_on_cpus_as_many_as_there_are() -> None:
    assert shares([NETWORK, CAPTIONER], EngineOptions(), cluster()) == [Share("cpu", 16, 1), Share("cpu", 4, 4)]


def test_one_cpu_is_enough_for_every_pool() -> None:
    assert shares([NETWORK, CAPTIONER], EngineOptions(), cluster(1)) == [Share("cpu", 1, 1), Share("cpu", 1, 1)]


def test_threads_are_those_of_one_machine_however_many_actors_there_are() -> None:
    engine = EngineOptions(num_actors=3)
    (share,) = shares([CAPTIONER], engine, Cluster(num_cpus=8, num_gpus=0, cpus_of_largest_node=2))
    assert share == Share("cpu", 3, 2)


def test_gpus_are_filled() -> None:
    assert shares([NETWORK] * 4, EngineOptions(), cluster(num_gpus=2)) == [Share("cuda", 2, num_gpus=0.25)] * 4


def test_what_does_not_fit_together_gets_less() -> None:
    given = shares([NETWORK] * 4 + [CAPTIONER], EngineOptions(), cluster(num_gpus=1))
    assert [share.num_gpus for share in given] == [0.125] * 4 + [0.5]
    assert {share.num_actors for share in given} == {1}


WHOLE = Demand(num_cpus=1.0, num_gpus=1.0)


@pytest.mark.parametrize(
    ("demands", "options", "num_gpus", "expected"),
    [
        # what is left of each GPU is of no use: an actor is on one
        ([NETWORK], {"num_gpus": 0.6}, 3, (3, [0.6])),
        ([NETWORK], {"num_gpus": 0.4}, 2, (4, [0.4])),
        ([NETWORK], {"num_gpus": 0.3333}, 2, (6, [0.3333])),
        ([NETWORK], {"num_gpus": 2}, 5, (2, [2.0])),
        ([NETWORK] * 9, {}, 2, (1, [0.2] * 9)),
        ([WHOLE] * 3, {}, 2, (1, [0.5] * 3)),
        ([NETWORK] * 2, {"num_actors": 5}, 2, (5, [0.2] * 2)),
        ([NETWORK] * 4 + [CAPTIONER], {}, 2, (1, [0.25] * 4 + [1.0])),
        ([NETWORK] * 4 + [CAPTIONER], {}, 3, (1, [0.25] * 4 + [1.0])),
        ([NETWORK] * 4 + [CAPTIONER], {}, 4, (2, [0.25] * 4 + [1.0])),
        # 0.75 would fit if it were placed first, but it is asked for last
        ([NETWORK] * 3 + [Demand(1.0, 0.5), Demand(1.0, 0.75)], {}, 2, (1, [0.2] * 3 + [0.4, 0.6])),
        ([Demand(1.0, 2.0)], {}, 1, (1, [1.0])),
        ([Demand(1.0, 3.0), NETWORK], {}, 3, (1, [2.0, 0.2499])),
    ],
)
def test_every_actor_is_on_one_gpu(
    demands: list[Demand], options: dict[str, float], num_gpus: int, expected: tuple[int, list[float]]
) -> None:
    given = shares(demands, EngineOptions.model_validate(options), cluster(num_gpus=num_gpus))
    assert [share.num_gpus for share in given] == expected[1]
    assert {share.num_actors for share in given} == {expected[0]}


@pytest.mark.parametrize("demands", [[NETWORK] * 4 + [CAPTIONER], [NETWORK] * 5])
def test_the_error_counts_whole_gpus(demands: list[Demand]) -> None:
    with pytest.raises(EngineStartError, match=r"^num_gpus: 5 networks with 0\.4 for each copy need 3 GPUs, but .* 2;"):
        shares(demands, EngineOptions(num_gpus=0.4), cluster(num_gpus=2))


def test_gpus_of_one_actor_are_in_one_machine() -> None:
    two_machines = Cluster(8, 4, 4, gpus_of_nodes=(3, 1))
    assert shares([NETWORK], EngineOptions(num_gpus=2), two_machines) == [Share("cuda", 1, num_gpus=2.0)]
    with pytest.raises(EngineStartError, match="need 2 GPUs, but the Ray cluster has 4, at most 1 in one machine;"):
        shares([NETWORK], EngineOptions(num_gpus=2), Cluster(8, 4, 4, gpus_of_nodes=(1, 1, 1, 1)))


def test_a_gpu_and_a_half_is_refused() -> None:
    with pytest.raises(EngineStartError, match=r"a network asks for 1\.5 GPUs; above 1 it must be a whole number"):
        shares([Demand(1.0, 1.5)], EngineOptions(), cluster(num_gpus=4))
    with pytest.raises(ValueError, match=r"num_gpus: 1\.5; above 1 it must be a whole number"):
        Resources(num_gpus=1.5)


def test_what_was_asked_for_and_does_not_fit_is_refused() -> None:
    engine = EngineOptions(num_gpus=0.5)
    with pytest.raises(EngineStartError, match=r"num_gpus: 4 networks with 0\.5 for each copy need 2 GPUs.* has 1;"):
        shares([NETWORK] * 4, engine, cluster(num_gpus=1))
    assert shares([NETWORK] * 4, engine, cluster(num_gpus=2)) == [Share("cuda", 1, num_gpus=0.5)] * 4


def test_a_device_is_what_was_asked_for() -> None:
    assert shares([NETWORK], EngineOptions(device="cpu"), cluster(num_gpus=4))[0].device == "cpu"
    with pytest.raises(EngineStartError, match="cuda, but the Ray cluster has no GPU; use --device cpu"):
        shares([NETWORK], EngineOptions(device="cuda"), cluster())


@pytest.mark.parametrize(
    ("options", "num_gpus", "said"),
    [
        ({}, 0, ["no GPU in the Ray cluster: hed, blip on CPUs, which takes much longer"]),
        ({"device": "cpu"}, 0, []),
        ({"device": "cpu"}, 1, []),
        ({}, 1, []),
    ],
)
def test_that_there_is_no_gpu_is_said(options: dict[str, str], num_gpus: int, said: list[str]) -> None:
    heard = Heard()
    with observe(heard):
        announced_device(EngineOptions.model_validate(options), cluster(num_gpus=num_gpus), "hed, blip")
    assert heard.lines == said


class Heard(SilentObserver):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def test_an_annotator_that_needs_a_gpu_says_so_at_the_start() -> None:
    unit = create("hed", {})
    unit.resources = Resources(num_gpus=1.0, needs_gpu=True)  # type: ignore[misc]  # its class has another
    assert len(annotator_recipes([unit], "cuda")) == 1
    with pytest.raises(EngineStartError, match="^annotators: hed cannot work without a GPU; "):
        annotator_recipes([create("canny", {}), unit], "cpu")


def test_a_run_without_networks_needs_nothing() -> None:
    assert shares([], EngineOptions(), cluster()) == []
    assert shares([], EngineOptions(), cluster(num_gpus=1)) == []
