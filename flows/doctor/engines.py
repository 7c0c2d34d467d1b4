"""Ray and Prefect: joined where they are configured, else started as a run would start them, and ended again."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import metadata

from controlmill.config import EngineOptions
from controlmill.errors import EngineStartError
from flows.doctor.finding import Finding
from flows.engines import prefect_server, ray_cluster

_ANSWER_S = 5.0
_TASK_S = 15.0


def ray_and_prefect(options: EngineOptions) -> Iterator[Finding]:
    """Start (or join) both side by side, and run one task on Ray."""
    with prefect_server() as server:
        yield from _ray(options)
        if server is None:
            yield _configured_prefect()
            return
        try:
            server.wait()
        except EngineStartError as error:
            yield Finding("Prefect", "problem", str(error), "is the user's data folder writable?")
            return
        started = f"{metadata.version('prefect')}; a server of a run's own starts on loopback"
        yield Finding("Prefect", "good", f"{started} (PREFECT_API_URL is not set)")


def _ray(options: EngineOptions) -> Iterator[Finding]:
    where = options.ray_address or "started on this machine"
    try:
        with ray_cluster(options) as num_cpus:
            import ray

            def answer() -> str:
                return "here"

            # no CPU asked for: it runs on a busy cluster too
            ray.get(ray.remote(num_cpus=0)(answer).remote(), timeout=_TASK_S)
            gpus = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
            text = f"{metadata.version('ray')}, {where}: {num_cpus} CPUs, {gpus:g} GPUs; a task ran"
    except EngineStartError as error:
        remedy = (
            "check the address, the port, and RAY_AUTH_TOKEN"
            if options.ray_address
            else "see /tmp/ray/session_latest/logs"
        )
        yield Finding("Ray", "problem", str(error), remedy)
        return
    except TimeoutError:
        yield Finding("Ray", "problem", f"{where}: no worker started in {_TASK_S:.0f} s", "is the machine overloaded?")
        return
    yield Finding("Ray", "good", text)


def _configured_prefect() -> Finding:
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    url = (settings.api.url or "").rstrip("/")
    request = urllib.request.Request(f"{url}/admin/version")  # noqa: S310 - http or https, as the user configured it
    if settings.api.key is not None:
        request.add_header("Authorization", f"Bearer {settings.api.key.get_secret_value()}")
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:  # noqa: S310 - as above
            theirs = str(json.loads(answer.read()))
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        reason = getattr(error, "reason", error)
        remedy = "start it (prefect server start), or unset PREFECT_API_URL: then every run has a server of its own"
        return Finding("Prefect", "problem", f"no server at {url}: {reason}", remedy)
    ours = metadata.version("prefect")
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        return Finding("Prefect", "note", f"{ours} here, {theirs} at {url}", "use the same version on both sides")
    pool = os.environ.get("PREFECT_DEFAULT_WORK_POOL_NAME")
    return Finding("Prefect", "good", f"{ours}, server at {url}" + (f", work pool {pool}" if pool else ""))
