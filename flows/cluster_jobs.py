"""Jobs on a Ray cluster, through the Jobs API that its dashboard serves."""

import asyncio
import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from controlmill.errors import ConfigError, EngineError, EngineStartError
from flows.engines import no_usage_statistics
from storage.filesystem import one_line, redact

_ANSWER_S = 10.0
_LOST_S = 60.0
_STOP_S = 60
"""A job that is stopped ends what is under way and says so to its Prefect server; Ray would kill it after 3 s."""
_POLL_S = 0.5
_DONE = ("SUCCEEDED", "FAILED", "STOPPED")
_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_SECRET = re.compile(r"(?i)([\w-]*(?:secret|token|passw|credential|key)[\w-]*(?:=|\s+))('[^']*'|\"[^\"]*\"|\S+)")


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """A job as the cluster knows it."""

    id: str
    state: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    what: str
    """What it runs, without secrets."""
    started: datetime | None
    ended: datetime | None
    exit_code: int | None
    message: str

    @property
    def is_done(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state in _DONE


def address_of(given: str | None) -> str:
    """The address of the cluster's dashboard: as given, else from the environment as `ray job` takes it.

    Raises:
        ConfigError: there is none, or it is that of another part of Ray.
    """
    found = given or next((os.environ[name] for name in _ADDRESSES if os.environ.get(name)), None)
    if found is None:
        raise ConfigError(
            "address: give the one of the cluster's dashboard, as in --address http://head:8265, or set "
            "RAY_API_SERVER_ADDRESS"
        )
    address = found if "://" in found or ":" not in found else f"http://{found}"
    if address.startswith(("http://", "https://")):
        return address.rstrip("/")
    raise ConfigError(f"address: {redact(found)} is not that of a dashboard, as http://head:8265 is")


def forwarded(names: tuple[str, ...]) -> dict[str, str]:
    """The environment variables of these names; their values go to the cluster and are shown nowhere here.

    Raises:
        ConfigError: one is not set, or its value was given with it.
    """
    for name in names:
        if "=" in name:
            raise ConfigError(
                f"env: give only the name, --env {name.partition('=')[0]}; its value is taken from the environment, so "
                "that it is in no history of a shell"
            )
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ConfigError(f"env: {', '.join(missing)} is not set here")
    return {name: os.environ[name] for name in names}


class Cluster:
    """The Jobs API at an address."""

    def __init__(self, address: str) -> None:
        """Connect to an `address_of`.

        Raises:
            EngineStartError: nobody answers there, something else does, or the token is missing or refused.
        """
        no_usage_statistics()
        if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        self.address = redact(address)
        _check_answers(address)
        # Ray takes this variable before the address that it is given
        os.environ["RAY_API_SERVER_ADDRESS"] = address
        with self._answers():
            from ray.job_submission import JobSubmissionClient

            for name in _TALKATIVE:
                logging.getLogger(name).setLevel(logging.WARNING)
            self._client = JobSubmissionClient(address)

    def submit(
        self, command: str, folder: Path, *, environment: Mapping[str, str], what: str, submission_id: str | None
    ) -> str:
        """Send a job that runs `controlmill <command>` in a copy of the folder; returns its id.

        Args:
            command: words of the command line, without secrets: Ray shows them.
            folder: what travels, see `flows.job_folder`.
            environment: variables of the job and its workers. Ray shows them to whoever may ask it.
            what: what the job is about, for lists of jobs.
            submission_id: its id, by default one that Ray makes.
        """
        with self._answers():
            return self._client.submit_job(
                # exec: the shell's exit code and signals are the command's own
                entrypoint=f"exec python -m controlmill.cli.main {command}",
                submission_id=submission_id,
                runtime_env={
                    "working_dir": str(folder),
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_S), **environment},
                },
                metadata={"controlmill": f"controlmill {command.partition(' ')[0]} {what}".strip()},
            )

    def jobs(self) -> list[ClusterJob]:
        """All jobs that were submitted to the cluster, the latest last."""
        with self._answers():
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: (job.started is not None, job.started))

    def job(self, job_id: str) -> ClusterJob:
        """One job; `ConfigError` where there is none of this id."""
        with self._answers(job_id):
            return _job(self._client.get_job_info(job_id))

    def log(self, job_id: str) -> str:
        """All that a job has written so far."""
        with self._answers(job_id):
            return self._client.get_job_logs(job_id)

    def stop(self, job_id: str) -> bool:
        """Ask a job to stop; whether it was running."""
        with self._answers(job_id):
            return self._client.stop_job(job_id)

    def wait(self, job_id: str) -> ClusterJob:
        """The job once it has ended, or as it is some time after it should have."""
        deadline_s = time.monotonic() + 2 * _STOP_S
        while not (job := self.job(job_id)).is_done and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        return job

    def tail(self, job_id: str) -> AsyncIterator[str]:
        """What a job writes, from its beginning, until it ends or the connection is lost."""
        return self._client.tail_job_logs(job_id)

    @contextmanager
    def _answers(self, job_id: str | None = None) -> Iterator[None]:
        """Turn what the client raises into errors for a person."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise EngineStartError(_token_refused(self.address, missing="required" in str(error))) from error
        except (requests.RequestException, OSError) as error:
            # requests says it in five lines
            what = type(error).__name__ if isinstance(error, requests.RequestException) else one_line(error)
            raise EngineStartError(f"no Ray dashboard answers at {self.address}: {what}") from error
        except (RuntimeError, ValueError) as error:
            said = one_line(error)
            if job_id is not None and "status code 404" in said:
                known = f"`controlmill jobs list --address {self.address}` shows those there are"
                raise ConfigError(f"{job_id}: there is no such job; {known}") from error
            if "already exists" in said:
                raise ConfigError("submission_id: there is a job with this id; give another") from error
            raise EngineError(f"Ray at {self.address}: {said[:400]}") from error


class Follower:
    """Shows what a job writes, each piece once, however often the connection has to be made again."""

    def __init__(self, cluster: Cluster, job_id: str, show: Callable[[str], None]) -> None:
        self._cluster = cluster
        self._job_id = job_id
        self._show = show
        self._num_shown = 0

    def follow(self) -> ClusterJob:
        """Return when the job has ended; interrupted, it can be called again and goes on.

        Raises:
            EngineError: the cluster cannot be reached any more.
        """
        lost_s = None
        while True:
            before, is_whole = self._num_shown, False
            # whatever ends it: a lost connection shows in the next request
            with suppress(Exception):
                asyncio.run(self._tail())
                is_whole = True
            try:
                job = self._cluster.job(self._job_id)
            except EngineError as error:
                now_s = time.monotonic()
                lost_s = now_s if lost_s is None or self._num_shown > before else lost_s
                if now_s - lost_s > _LOST_S:
                    raise EngineError(f"the connection was lost; job {self._job_id} may go on: {error}") from error
            else:
                lost_s = None
                if job.is_done:
                    if not is_whole:
                        self._show_rest()
                    return job
            time.sleep(_POLL_S)

    def _show_rest(self) -> None:
        """What a job wrote that ended while the connection was lost; how it ended is told without it, too."""
        with suppress(EngineError):
            log = self._cluster.log(self._job_id)
            if len(log) > self._num_shown:
                self._show(log[self._num_shown :])
                self._num_shown = len(log)

    async def _tail(self) -> None:
        position = 0
        async with aclosing(self._cluster.tail(self._job_id)) as pieces:  # type: ignore[type-var]
            async for text in pieces:
                new = text[max(0, self._num_shown - position) :]
                position += len(text)
                if new:
                    self._show(new)
                    self._num_shown = position


def _check_answers(address: str) -> None:
    """Raise `EngineStartError` within seconds where there is no Ray dashboard; its client would wait without end."""
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=_ANSWER_S) as answer:  # noqa: S310  http, checked
            is_ray = "ray_version" in json.load(answer)
    except urllib.error.HTTPError as error:
        # the token is not sent here; the client says what of it is wrong
        is_ray = error.code in (401, 403)
    except (OSError, ValueError) as error:
        cause = getattr(error, "reason", error)
        said = one_line(cause) if isinstance(cause, BaseException) else str(cause)
        raise EngineStartError(f"no Ray dashboard answers at {redact(address)}: {said}") from error
    if not is_ray:
        raise EngineStartError(f"what answers at {redact(address)} is no Ray dashboard; its port is often 8265")


def _token_refused(address: str, *, missing: bool) -> str:
    given = next((name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if os.environ.get(name)), None)
    if missing or os.environ.get("RAY_AUTH_MODE") != "token":
        return f"Ray at {address} wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
    return f"Ray at {address} refuses the token of {given or '~/.ray/auth_token'}; it has to be the cluster's"


def without_secrets(entrypoint: str) -> str:
    """A command line without passwords in URLs and values whose names say that they are secret."""
    return _SECRET.sub(r"\1***", redact(entrypoint))


def _job(details: Any) -> ClusterJob:
    what = (details.metadata or {}).get("controlmill") or details.entrypoint
    return ClusterJob(
        id=details.submission_id or details.job_id or "",
        state=str(details.status.value),
        what=without_secrets(what),
        started=_moment(details.start_time),
        ended=_moment(details.end_time),
        exit_code=details.driver_exit_code,
        message=redact(details.message or ""),
    )


def _moment(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
