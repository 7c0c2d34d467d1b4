"""Ray and Prefect: joined where they are configured, else started as a run would start them, and ended again."""

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata

from controlmill.config import EngineOptions
from controlmill.errors import EngineStartError
from flows.doctor.finding import Finding
from flows.engines import prefect_server, ray_cluster
from storage.filesystem import redact

_ANSWER_S = 5.0
_TASK_S = 15.0
_REFUSED = (401, 403)


def ray(options: EngineOptions, limit_s: float) -> Iterator[Finding]:
    """Start or join Ray and run one task on it, in a process of its own: one that hangs within Ray can be ended."""
    process = subprocess.Popen(  # noqa: S603 - our own module and options
        [sys.executable, "-m", "flows.doctor.engines", options.model_dump_json()],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=limit_s)
        said = (errors.strip().splitlines() or ["nothing"])[-1]
    except subprocess.TimeoutExpired:
        output, said = "", f"{_where(options)}: no answer within {limit_s:.0f} s"
    finally:
        # its Ray too, where it did not come to end it
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if output:
        yield Finding(**json.loads(output.splitlines()[-1]))
    else:
        yield Finding("Ray", "problem", said, _remedy(options))


def _ray(options: EngineOptions) -> Finding:
    where = _where(options)
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
        return Finding("Ray", "problem", str(error), _remedy(options))
    except TimeoutError:
        text = f"{where}: no worker started in {_TASK_S:.0f} s"
        return Finding("Ray", "problem", text, "is the machine overloaded?")
    return Finding("Ray", "good", text)


def _where(options: EngineOptions) -> str:
    return options.ray_address or "started on this machine"


def _remedy(options: EngineOptions) -> str:
    if options.ray_address:
        return "check the address, the port, and RAY_AUTH_TOKEN"
    return "see /tmp/ray/session_latest/logs; on a machine that is busy: controlmill doctor --timeout 120"


def prefect() -> Iterator[Finding]:
    """Ask the server that is configured, else start one as a run does."""
    with prefect_server() as server:
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


def _configured_prefect() -> Finding:
    from prefect.settings import get_current_settings

    settings = get_current_settings().api
    url = (settings.url or "").rstrip("/")
    shown = redact(url)
    request = urllib.request.Request(f"{url}/admin/version")  # noqa: S310 - http or https, as the user configured it
    if settings.key is not None:
        request.add_header("Authorization", f"Bearer {settings.key.get_secret_value()}")
    elif settings.auth_string is not None:
        password = base64.b64encode(settings.auth_string.get_secret_value().encode()).decode()
        request.add_header("Authorization", f"Basic {password}")
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:  # noqa: S310 - as above
            theirs = str(json.loads(answer.read()))
    except (OSError, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code in _REFUSED:
            remedy = "set PREFECT_API_AUTH_STRING to the server's password, or PREFECT_API_KEY for Prefect Cloud"
            return Finding("Prefect", "problem", f"the server at {shown} refuses what it is given", remedy)
        reason = getattr(error, "reason", error)
        remedy = "start it (prefect server start), or unset PREFECT_API_URL: then every run has a server of its own"
        return Finding("Prefect", "problem", f"no server at {shown}: {redact(str(reason))}", remedy)
    ours = metadata.version("prefect")
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        return Finding("Prefect", "note", f"{ours} here, {theirs} at {shown}", "use the same version on both sides")
    pool = os.environ.get("PREFECT_DEFAULT_WORK_POOL_NAME")
    return Finding("Prefect", "good", f"{ours}, server at {shown}" + (f", work pool {pool}" if pool else ""))


if __name__ == "__main__":
    print(json.dumps(_ray(EngineOptions.model_validate_json(sys.argv[1])).to_json()))  # noqa: T201 - for `ray` above
