"""Addresses, tokens and secrets of a cluster's jobs, before anybody is asked."""

import socket
from collections.abc import AsyncIterator

import pytest

from controlmill.errors import ConfigError, EngineStartError
from controlmill.testing.http_server import HttpServer, answer
from flows.cluster_jobs import Cluster, ClusterJob, Follower, address_of, forwarded, without_secrets


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def test_the_address_is_the_given_one_or_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--address http://head:8265"):
        address_of(None)
    monkeypatch.setenv("RAY_ADDRESS", "http://one:8265")
    assert address_of(None) == "http://one:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://two:8265/")
    assert address_of(None) == "http://two:8265"
    assert address_of("three:8265") == "http://three:8265"
    assert address_of("https://four") == "https://four"
    for other in ("auto", "ray://head:10001"):
        with pytest.raises(ConfigError, match=r"is not that of a dashboard, as http://head:8265 is"):
            address_of(other)


def test_variables_are_taken_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_KEY", "hidden")
    monkeypatch.delenv("SECOND_KEY", raising=False)
    assert forwarded(("FIRST_KEY",)) == {"FIRST_KEY": "hidden"}
    with pytest.raises(ConfigError, match="env: SECOND_KEY is not set here"):
        forwarded(("FIRST_KEY", "SECOND_KEY"))
    with pytest.raises(ConfigError, match="only the name, --env FIRST_KEY;") as refused:
        forwarded(("FIRST_KEY=hidden",))
    assert "hidden" not in str(refused.value)


def test_nobody_at_the_address_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(EngineStartError, match=rf"^no Ray dashboard answers at http://127\.0\.0\.1:{port}: .*refused"):
        Cluster(f"http://127.0.0.1:{port}")


def test_something_else_at_the_address_is_told() -> None:
    page = HttpServer(routes={"/api/version": answer(b'{"version": 1}')})
    with page, pytest.raises(EngineStartError, match="is no Ray dashboard; its port is often 8265"):
        Cluster(page.url("").rstrip("/"))


@pytest.mark.parametrize(
    ("entrypoint", "shown"),
    [
        ("python -m controlmill.cli.main build build.yaml", "python -m controlmill.cli.main build build.yaml"),
        ("AWS_SECRET_ACCESS_KEY=abc python x.py", "AWS_SECRET_ACCESS_KEY=*** python x.py"),
        ("python x.py --hf-token abc --size 3", "python x.py --hf-token *** --size 3"),
        ("python x.py --password 'a b' 7", "python x.py --password *** 7"),
        ("curl https://me:pw@host/list?sig=1", "curl https://***@host/list?***"),
    ],
)
def test_a_list_of_jobs_shows_no_secret(entrypoint: str, shown: str) -> None:
    assert without_secrets(entrypoint) == shown


class Dropped(Cluster):
    """Loses the connection within a job's log, which has ended when it is asked next."""

    def __init__(self) -> None:
        pass

    async def tail(self, job_id: str) -> AsyncIterator[str]:
        yield f"{job_id} begins\n"
        yield "works"
        raise RuntimeError("closed with close code 1006")

    def log(self, job_id: str) -> str:
        return f"{job_id} begins\nworks on\nand ends\n"

    def job(self, job_id: str) -> ClusterJob:
        return ClusterJob(job_id, "SUCCEEDED", "a build", None, None, 0, "")


def test_the_last_lines_of_a_job_are_shown_though_the_connection_was_lost_before() -> None:
    shown: list[str] = []
    assert Follower(Dropped(), "job", shown.append).follow().is_done
    assert shown == ["job begins\n", "works", " on\nand ends\n"]
