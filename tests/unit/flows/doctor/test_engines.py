"""A Prefect server that wants a password, and what is shown of its address."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from controlmill.testing.http_server import HttpServer, answer
from flows.doctor import engines

PATH = "/api/admin/version"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HttpServer]:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    with HttpServer() as server:
        yield server


def test_the_password_of_a_server_is_sent(server: HttpServer) -> None:
    server.routes[PATH] = answer(b'"3.0.1"')
    with temporary_settings({PREFECT_API_URL: server.url("/api"), PREFECT_API_AUTH_STRING: "me:hidden"}):
        found = engines._configured_prefect()
    assert "3.0.1" in found.found
    assert found.verdict == "note"
    (asked,) = server.asked(PATH)
    assert asked.headers["authorization"] == f"Basic {base64.b64encode(b'me:hidden').decode()}"


def test_a_server_that_refuses_is_one_and_no_password_is_shown(server: HttpServer) -> None:
    server.routes[PATH] = answer(b"", "401 Unauthorized")
    with temporary_settings({PREFECT_API_URL: server.url("/api")}):
        found = engines._configured_prefect()
    assert found.verdict == "problem"
    assert "refuses" in found.found
    assert "PREFECT_API_AUTH_STRING" in str(found.remedy)
    with temporary_settings({PREFECT_API_URL: "http://me:hidden@127.0.0.1:1/api"}):
        found = engines._configured_prefect()
    assert found.found.startswith("no server at http://***@127.0.0.1:1/api")
    assert "hidden" not in str(found)
