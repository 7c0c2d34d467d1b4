"""The Prefect tasks that run on Ray, one run per shard and stage. They only wrap: the work knows neither."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from controlmill.config import ShardOptions
from controlmill.logs import also_to
from storage.dataset import Dataset
from storage.filesystem import redact
from storage.record import CommitRecord
from tasks.progress import ShardProgress, ignore

if TYPE_CHECKING:
    from flows.actor_pool import Actors
    from flows.annotating import Networks
    from tasks.annotators.base import Annotator
    from tasks.captioners.base import Captioner
    from training.encode_shard import Encoding

_POST_EVERY_S = 0.5


@task(name="pull-shard", task_run_name="pull {shard:05d}", persist_result=False, cache_policy=NO_CACHE)
def pull_shard(uri: str, shard: int, options: ShardOptions, num_parallel: int, board: Any) -> list[CommitRecord]:
    """Make the image layer of one shard, and the annotators' layers from the same pixels."""
    from tasks.pull_shard import pull_shard as work

    with _in_log():
        records = work(Dataset(uri), shard, options, num_parallel, _post_to(board))
    _finish(board, shard)
    return records


@task(name="annotate-shard", task_run_name="annotate {shard:05d}", persist_result=False, cache_policy=NO_CACHE)
def annotate_shard(
    uri: str,
    shard: int,
    units: "tuple[Annotator, ...]",
    num_parallel: int,
    board: Any,
    pool: "Networks | None" = None,
) -> list[CommitRecord]:
    """Make layers of one shard from its stored images; what needs a network is done by the actors of the pool."""
    from tasks.annotate_shard import annotate_shard as work

    networks = None if pool is None else pool.of([unit.name for unit in units]).make_maps
    with _in_log():
        records = work(Dataset(uri), shard, units, networks, num_parallel, _post_to(board))
    _finish(board, shard)
    return records


@task(name="caption-shard", task_run_name="caption {shard:05d}", persist_result=False, cache_policy=NO_CACHE)
def caption_shard(uri: str, shard: int, captioner: "Captioner", board: Any, pool: "Actors") -> list[CommitRecord]:
    """Make the captions of one shard from its stored images; the actors of the pool do the work, this one waits."""
    from tasks.caption_shard import caption_shard as work

    with _in_log():
        record = work(Dataset(uri), shard, captioner, pool.map, pool.versions, _post_to(board))
    _finish(board, shard)
    return [record]


@task(name="encode-shard", task_run_name="encode {shard:05d}", persist_result=False, cache_policy=NO_CACHE)
def encode_shard(
    uri: str, shard: int, layers: tuple[str, ...], encoding: "Encoding", reference: str, device: str, board: Any
) -> list[CommitRecord]:
    """Make the cached layers of one shard with the base at `reference`, loaded once per process."""
    from flows.encoding import base_of
    from training.encode_shard import encode_shard as work

    base = base_of(encoding, reference, device)
    progress, post = ShardProgress(shard), _post_to(board)

    def report(num_done: int) -> None:
        progress.done = num_done
        post(progress)

    with _in_log():
        records = work(Dataset(uri), shard, base, encoding, layers, report)
    _finish(board, shard)
    return records


def _in_log() -> AbstractContextManager[None]:
    """What the work says is in the log of the task on Prefect's page, too."""
    logger = get_run_logger()
    return also_to(lambda line: logger.info(redact(line)))


def _finish(board: Any, shard: int) -> None:
    if board is not None:
        board.finish.remote(shard)


def _post_to(board: Any) -> Callable[[ShardProgress], None]:
    """A report that posts to the board (if there is one), at most twice a second, and does not wait for it."""
    if board is None:
        return ignore
    posted_s = 0.0

    def post(progress: ShardProgress) -> None:
        nonlocal posted_s
        now_s = time.monotonic()
        if now_s - posted_s >= _POST_EVERY_S:
            posted_s = now_s
            board.post.remote(progress)

    return post
