"""What the command line calls: a session, Ray and the Prefect server around one flow, all ended with it.

The source is planned while Ray and the server start side by side. Nothing of Prefect is imported before its server is
chosen, because its settings are read at import.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from controlmill.config import (
    AnnotateConfig,
    BuildAndTrainConfig,
    BuildConfig,
    CaptionConfig,
    EncodeConfig,
    EngineOptions,
    RetryConfig,
    TrainConfig,
)
from controlmill.errors import EngineError, EngineStartError, InterruptedRunError
from controlmill.progress import observer
from flows.engines import RunServer, prefect_server, ray_cluster, ray_environment
from flows.session import session
from storage.dataset import Dataset
from storage.filesystem import one_line

_LAST_WORDS_S = 3.0

if TYPE_CHECKING:
    from flows.build_and_train import BuiltAndTrained
    from flows.report import BuildReport
    from training.outcome import Outcome


def run_build(config: BuildConfig) -> "BuildReport":
    """Build or go on building a dataset."""
    from tasks.recipe import captioner_of
    from tasks.stages import planned_shards

    dataset = Dataset(config.output_folder)
    with _engines(dataset, partial(planned_shards, dataset, config, captioner_of(config)), config):
        from flows.build_dataset import build_dataset

        return build_dataset(config)


def run_annotate(config: AnnotateConfig) -> "BuildReport":
    """Add layers to a dataset."""
    from tasks.stages import shards_with_images

    dataset = Dataset.open(config.output_folder)
    with _engines(dataset, partial(shards_with_images, dataset, config), config):
        from flows.annotate_dataset import annotate_dataset

        return annotate_dataset(config)


def run_caption(config: CaptionConfig) -> "BuildReport":
    """Describe the images of a dataset in words."""
    from tasks.captioners.registry import create
    from tasks.stages import shards_to_caption

    dataset = Dataset.open(config.output_folder)
    captioner = create(config)
    with _engines(dataset, partial(shards_to_caption, dataset, captioner), config):
        from flows.caption_dataset import caption_dataset

        return caption_dataset(config)


def run_encode(config: EncodeConfig) -> "BuildReport":
    """Encode images and captions of a dataset for training."""
    from flows.encoding import encoding_of, shards_to_encode

    dataset = Dataset.open(config.output_folder)
    encoding = encoding_of(dataset, config)
    with _engines(dataset, partial(shards_to_encode, dataset, encoding), config):
        from flows.encode_dataset import encode_dataset

        return encode_dataset(config)


def run_train(config: TrainConfig) -> "Outcome":
    """Train a ControlNet."""
    with _interruptible(partial(_last_checkpoint, config)), engines(config.engine):
        from flows.train_controlnet import train_controlnet

        return train_controlnet(config)


def run_build_and_train(config: BuildAndTrainConfig) -> "BuiltAndTrained":
    """Build a dataset and train on it."""
    how_to_go_on = "stopped; what is complete is kept: run the same command again to go on"
    resumed = config.train.resume_from_checkpoint or config.train.additional_train_steps
    if not resumed:
        how_to_go_on += ", with train.resume_from_checkpoint=latest where training had begun"
    from flows.checks import check

    check(config)
    with _interruptible(lambda: how_to_go_on), engines(config.engine):
        from flows.build_and_train import build_and_train

        return build_and_train(config)


def run_retry(config: RetryConfig) -> "BuildReport":
    """Pull failed rows of a dataset again."""
    from tasks.recipe import remembered_captioner
    from tasks.sources.plan import plan_retry

    dataset = Dataset.open(config.output_folder)
    remembered_captioner(dataset)
    with _engines(dataset, partial(plan_retry, dataset, config.reason), config):
        from flows.retry_failed import retry_failed

        return retry_failed(config)


@contextmanager
def _engines(dataset: Dataset, plan: Callable[[], Iterable[int]], options: EngineOptions) -> Iterator[None]:
    with _interruptible(partial(_complete_shards, dataset)), session(dataset, plan), engines(options):
        yield


@contextmanager
def engines(options: EngineOptions) -> Iterator[None]:
    """Ray and the Prefect server for a flow inside of the `with` block."""
    # The flow's own words reach its page; on the terminal the observer speaks, and errors are one line.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    # Lines wait so long in the process that wrote them; those of a process that is killed are lost.
    os.environ.setdefault("PREFECT_LOGGING_TO_API_BATCH_INTERVAL", "0.2")
    started_s = time.monotonic()
    with prefect_server() as server:
        observer().message(_beginning(options, server))
        ray_environment(options)
        # Importing Prefect takes a second or two, which fits into the start of Ray.
        with _importing("prefect_ray") as imported, ray_cluster(options):
            imported()
            with _prefect_errors(), _use(server):
                if server is not None:
                    # one with a password is this run's alone
                    where = f"; watch it at {server.url}" if server.password is None else ""
                    observer().message(f"ready after {time.monotonic() - started_s:.0f} s{where}")
                yield


@contextmanager
def _importing(module: str) -> Iterator[Callable[[], None]]:
    """Import a module in a thread, over at the end of the `with` block; yields what waits for it."""
    thread = threading.Thread(target=lambda: __import__(module), name=f"import {module}", daemon=True)
    thread.start()
    try:
        yield thread.join
    finally:
        # a process that exits beside a thread in the middle of an import may be aborted: "exception not rethrown"
        thread.join()


def _beginning(options: EngineOptions, server: RunServer | None) -> str:
    if options.ray_address is None:
        return "starting Ray" if server is None else "starting Ray and a Prefect server"
    return f"joining Ray at {options.ray_address}" + ("" if server is None else ", starting a Prefect server")


@contextmanager
def _prefect_errors() -> Iterator[None]:
    """Turn what Prefect's client raises, where a server is not there or goes away, into `EngineError`."""
    import httpx
    from prefect.exceptions import PrefectException, TerminationSignal

    try:
        yield
    except TerminationSignal as error:
        # inside of a flow SIGTERM is Prefect's, which has told its server by now
        raise KeyboardInterrupt from error
    except (httpx.HTTPError, PrefectException) as error:
        raise EngineError(f"Prefect: {one_line(error)}; run the same command again to go on") from error
    except RuntimeError as error:
        # what its client raises when the first request finds nobody
        if "Failed to reach API" not in str(error):
            raise
        raise EngineStartError(f"Prefect: {one_line(error)}; without PREFECT_API_URL a server is started") from error


@contextmanager
def _use(server: RunServer | None) -> Iterator[None]:
    """Wait for the run's own server and point Prefect at it, also where Prefect was imported for an earlier run."""
    if server is None:
        yield
        return
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    server.wait()
    with temporary_settings({PREFECT_API_URL: server.api_url, PREFECT_API_AUTH_STRING: server.password}):
        try:
            yield
        finally:
            _last_words()


def _last_words() -> None:
    """Send what is still queued for the server while it is there; Prefect would try for a minute after it has gone."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=_LAST_WORDS_S)


@contextmanager
def _interruptible(how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run in order; what is said then is how to go on."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        raise InterruptedRunError(how_to_go_on()) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _complete_shards(dataset: Dataset) -> str:
    num_done = len(dataset.layer("image").committed())
    return f"stopped; {num_done} shards are complete, nothing is half-written; run the same command again to go on"


def _last_checkpoint(config: TrainConfig) -> str:
    from training.checkpoints import Checkpoints

    committed = Checkpoints(config.output_dir).committed()
    if not committed:
        return "stopped before the first checkpoint; run the same command again to start anew"
    last = committed[-1].update
    return (
        f"stopped; the last checkpoint is that of update {last}; add --resume-from-checkpoint latest to go on from it"
    )
