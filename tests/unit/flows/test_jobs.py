"""Which jobs a shard needs, and in which lanes they are."""

from pathlib import Path

import pytest

from controlmill.config import CaptionOptions, ShardOptions
from flows.crews import ANNOTATE, CAPTION
from flows.jobs import PULL, JobMaker, Jobs
from flows.planner import BackgroundPlanner
from flows.report import BuildReport
from storage.dataset import Dataset
from tasks.annotators.registry import create
from tasks.captioners.base import CaptionModel
from tasks.captioners.blip import Blip
from tasks.stages import Work

BOARD = object()
LAYERS = ("canny", "hed", "caption")


@pytest.fixture
def maker(tmp_path: Path) -> JobMaker:
    options = CaptionOptions(captioner="blip", model="small")
    captioner = Blip(options, CaptionModel("small", "/nowhere", "0123456789abcdef"))
    pulled_with = ShardOptions(annotators=("canny",))
    units = [create("canny", {}), create("hed", {})]
    return JobMaker(Dataset(str(tmp_path / "dataset")), pulled_with, units, captioner, 2, BOARD)


def lanes(maker: JobMaker, work: Work | None) -> list[tuple[str, str, bool]]:
    """Lane, task and whether its rows are counted, of each job."""
    if work is None:
        return []
    return [(lane, job.task.name, job.parameters["board"] is BOARD) for lane, job in maker.jobs(work)]


def test_networks_and_captions_follow_the_pulling_in_lanes_of_their_own(maker: JobMaker) -> None:
    work = Work(3, 10, pull=True, layers=LAYERS)
    assert lanes(maker, work) == [(PULL, "pull-shard", True)]
    ((_, pull),) = maker.jobs(work)
    assert pull.parameters["options"].annotators == ("canny",)
    afterwards = maker.afterwards(work)
    assert afterwards is not None
    assert afterwards.layers == ("hed", "caption")
    assert lanes(maker, afterwards) == [(ANNOTATE, "annotate-shard", False), (CAPTION, "caption-shard", False)]
    assert maker.afterwards(afterwards) is None


def test_what_is_missing_of_a_shard_that_has_its_images_is_counted_once(maker: JobMaker) -> None:
    work = Work(3, 10, pull=False, layers=LAYERS)
    assert lanes(maker, work) == [(ANNOTATE, "annotate-shard", True), (CAPTION, "caption-shard", False)]
    assert [job.counts for _, job in maker.jobs(work)] == [True, False]
    ((_, annotate), _) = maker.jobs(work)
    assert [unit.name for unit in annotate.parameters["units"]] == ["canny", "hed"]
    only_captions = Work(3, 10, pull=False, layers=("caption",))
    assert lanes(maker, only_captions) == [(CAPTION, "caption-shard", True)]
    assert maker.afterwards(work) is maker.afterwards(only_captions) is None


def test_without_a_network_a_job_occupies_a_cpu(maker: JobMaker) -> None:
    work = Work(3, 10, pull=False, layers=("canny",))
    assert lanes(maker, work) == [(PULL, "annotate-shard", True)]
    assert maker.afterwards(Work(3, 10, pull=True, layers=("canny",))) is None


def test_complete_shards_are_passed_over_at_once(maker: JobMaker) -> None:
    class Missing:
        def missing(self, shard: int) -> Work | None:
            return Work(shard, 10, pull=True, layers=()) if shard % 1000 == 999 else None

    with BackgroundPlanner(lambda: range(5000)) as planner:
        planner.check(timeout_s=60)
        while not planner.complete:
            planner.check(timeout_s=60)
        jobs = Jobs(planner, Missing(), maker, {}, BuildReport("dataset"))
        first = jobs.next_job(PULL)
    assert first is not None
    assert first.shard == 999
    assert jobs.report.num_shards_before == 4995
    assert planner.exhausted
