"""What the dataset flows share: take shards as they are planned, find what each still needs, run it on Ray, count."""

from contextlib import ExitStack

from controlmill.config import EngineOptions, LayerOptions, ShardOptions
from controlmill.progress import observer
from flows.board import new_board
from flows.crews import Crew, crews
from flows.fan_out import FanOut, Lane
from flows.jobs import PULL, JobMaker, Jobs
from flows.planner import BackgroundPlanner
from flows.report import BuildReport
from storage.dataset import Dataset
from tasks.captioners.base import Captioner
from tasks.recipe import annotators, layer_fingerprints
from tasks.stages import Stages


def make_shards(
    dataset: Dataset,
    options: LayerOptions,
    captioner: Captioner | None,
    engine: EngineOptions,
    planner: BackgroundPlanner,
    num_cpus: int,
) -> BuildReport:
    """Make what the planned shards lack, on the Ray that this process is connected to.

    Shards without images are pulled when `options` are `ShardOptions`, and left alone when they are not. Raises the
    first error of a shard; the others that are under way end with the connection to Ray, committed whole or not at all.
    """
    planner.check(timeout_s=None)
    num_parallel = engine.processes_count or num_cpus
    units = annotators(options)
    networks = [unit for unit in units if unit.needed_weights()]
    stages = Stages(dataset, layer_fingerprints(dataset, options, captioner))
    with ExitStack() as stack:
        ready = {lane: stack.enter_context(crew) for lane, crew in crews(networks, captioner, engine).items()}
        board = new_board()
        maker = JobMaker(dataset, _pulled_with(options), units, captioner, num_parallel, board)
        jobs = Jobs(planner, stages, maker, ready, BuildReport(dataset.uri))
        return run_jobs(jobs, FanOut(_lanes(num_parallel, ready, engine), engine.max_shard_retry))


def run_jobs(jobs: Jobs, fan_out: FanOut) -> BuildReport:
    """Run the jobs as their shards are planned, and count; raises the first error of one."""
    observer().planned(0, 0, complete=False)
    for ended in fan_out.run(jobs.next_job, lambda: jobs.exhausted):
        if ended is not None:
            jobs.count(*ended)
        else:
            jobs.show()
    return jobs.report


def _pulled_with(options: LayerOptions) -> ShardOptions | None:
    """How shards are pulled: with the annotators that need no network; networks want batches of stored images."""
    if not isinstance(options, ShardOptions):
        return None
    units = zip(options.annotators, annotators(options), strict=True)
    return options.model_copy(update={"annotators": tuple(name for name, unit in units if not unit.needed_weights())})


def _lanes(num_parallel: int, ready: dict[str, Crew], engine: EngineOptions) -> dict[str, Lane]:
    """Pulling goes on while networks work: their jobs wait for actors, and occupy no CPU."""
    waiting = {name: Lane(engine.processes_count or crew.num_shards, num_cpus=0) for name, crew in ready.items()}
    return {PULL: Lane(num_parallel), **waiting}
