"""Weights are found where they are, in the order that is documented; the hub is a real server on this machine."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from controlmill.errors import WeightsMissingError, WeightsUnusableError
from storage.weights.reference import WeightsFile
from storage.weights.resolve import locate, resolve
from storage.weights.survey import find, verify

CONTENT = b"the weights of a network"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = WeightsFile("owner/name", "net.pth", COMMIT, SHA256)
CONFIG = WeightsFile("owner/name", "config.json", COMMIT, unique_name=False)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty cache that is offline."""
    from huggingface_hub import constants

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "memory"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    # read once, when the library was imported
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("CONTROLMILL_WEIGHTS", raising=False)
    return tmp_path


@pytest.fixture
def folder(machine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONTROLMILL_WEIGHTS", str(machine / "weights"))
    return machine / "weights"


def write(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def cached(machine: Path, commit: str, content: bytes = CONTENT) -> Path:
    """The file as `huggingface_hub` keeps it: a link in a snapshot, and the commit that `main` was."""
    repository = machine / "hub" / "models--owner--name"
    blob = write(repository / "blobs" / hashlib.sha256(content).hexdigest(), content)
    link = repository / "snapshots" / commit / "net.pth"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    write(repository / "refs" / "main", commit.encode())
    return link


@pytest.mark.parametrize("place", ["owner/name/net.pth", "name/net.pth", "net.pth"])
def test_a_folder_of_weights_holds_it_under_long_and_short_names(folder: Path, place: str) -> None:
    path = write(folder / place)
    (found,) = resolve([FILE])
    # nobody says which commit it is of, but its bytes are those of the one that is known
    assert (found.path, found.sha256, found.origin, found.commit) == (path, SHA256, "folder", COMMIT)
    write(path, b"other weights")
    (found,) = resolve([FILE])
    assert (found.origin, found.commit) == ("folder", None)


def test_a_name_that_says_nothing_needs_its_repository(folder: Path) -> None:
    write(folder / "config.json")
    assert locate(CONFIG) is None
    path = write(folder / "name" / "config.json")
    assert resolve([CONFIG])[0].path == path


def test_several_folders_are_looked_at_in_order(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROLMILL_WEIGHTS", f"{machine}/one:{machine}/two")
    path = write(machine / "two" / "net.pth")
    assert resolve([FILE])[0].path == path
    path = write(machine / "one" / "net.pth")
    assert resolve([FILE])[0].path == path


def test_the_users_own_file_or_folder_comes_first_and_alone(folder: Path, machine: Path) -> None:
    write(folder / "net.pth")
    own = write(machine / "own.pth", b"mine")
    assert resolve([FILE], str(own))[0].path == own
    write(machine / "mine" / "net.pth", b"mine")
    write(machine / "mine" / "config.json", b"{}")
    found = resolve([FILE, CONFIG], str(machine / "mine"))
    assert [one.path.name for one in found] == ["net.pth", "config.json"]
    assert {one.origin for one in found} == {"given"}
    with pytest.raises(WeightsMissingError, match=r"/empty does not have net\.pth$"):
        resolve([FILE], str(machine / "empty"))
    with pytest.raises(WeightsUnusableError, match=r"is one file, but net\.pth, config\.json are needed"):
        resolve([FILE, CONFIG], str(own))


def test_the_cache_holds_it_at_its_commit(machine: Path) -> None:
    path = cached(machine, COMMIT)
    (found,) = resolve([FILE])
    assert (found.path, found.origin, found.commit) == (path, "cache", COMMIT)


def test_another_commit_serves_if_its_bytes_are_the_published_ones(machine: Path) -> None:
    other = "f" * 40
    cached(machine, other)
    assert resolve([FILE])[0].commit == other
    with pytest.raises(WeightsMissingError):
        resolve([WeightsFile("owner/name", "net.pth", COMMIT, "0" * 64)])
    with pytest.raises(WeightsMissingError):
        resolve([WeightsFile("owner/name", "net.pth", COMMIT)])


def test_a_damaged_file_of_the_cache_is_refused_and_told_as_another(machine: Path) -> None:
    path = cached(machine, COMMIT, b"the weights of a netw")
    with pytest.raises(WeightsUnusableError) as caught:
        resolve([FILE])
    assert str(caught.value).startswith(f"weights: {path} has SHA-256 ")
    assert str(caught.value).endswith(f", not {SHA256} as published; delete {path.resolve()} and try again")
    assert verify(FILE).verdict == "another"
    path.resolve().write_bytes(CONTENT)
    assert resolve([FILE])[0].sha256 == SHA256


def test_the_published_bytes_of_another_commit_serve_where_those_of_the_right_one_are_damaged(machine: Path) -> None:
    cached(machine, COMMIT, b"the weights of a netw")
    path = cached(machine, "f" * 40)
    assert resolve([FILE])[0].path == path


def test_a_branch_is_recorded_as_the_commit_it_was(machine: Path) -> None:
    cached(machine, COMMIT)
    assert resolve([WeightsFile("owner/name", "net.pth")])[0].commit == COMMIT


def test_another_file_may_serve_as_well(folder: Path) -> None:
    file = WeightsFile("owner/name", "model.safetensors", unique_name=False, or_else="pytorch_model.bin")
    path = write(folder / "owner/name" / "pytorch_model.bin")
    assert resolve([file])[0].path == path
    path = write(folder / "owner/name" / "model.safetensors")
    assert resolve([file])[0].path == path


def test_optional_files_may_be_missing(folder: Path) -> None:
    write(folder / "net.pth")
    assert len(resolve([FILE, WeightsFile("owner/name", "more.json", optional=True)])) == 1


def test_one_error_names_all_that_is_missing_and_where_it_belongs(machine: Path) -> None:
    with pytest.raises(WeightsMissingError) as caught:
        resolve([FILE, CONFIG])
    assert str(caught.value) == (
        "weights: not on this machine, HF_HUB_OFFLINE is set: net.pth, config.json of "
        "https://huggingface.co/owner/name at 0123456789ab; put each at FOLDER/net.pth and set "
        "CONTROLMILL_WEIGHTS=FOLDER, or run `controlmill weights fetch` where there is a network"
    )
    assert not (machine / "hub").exists()


def test_the_folder_that_is_set_is_named(folder: Path) -> None:
    with pytest.raises(WeightsMissingError, match=rf"put it at {folder}/owner/name/config\.json, or run"):
        resolve([CONFIG])


def test_verify_compares_with_what_was_published(folder: Path) -> None:
    assert verify(FILE).verdict == "missing"
    write(folder / "net.pth")
    assert verify(FILE).verdict == "published"
    write(folder / "net.pth", b"fine-tuned")
    assert verify(FILE).verdict == "another"
    write(folder / "owner/name/config.json")
    assert verify(CONFIG).verdict == "unknown"
    assert [found is not None for _, found in find([FILE, CONFIG])] == [True, True]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download takes."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        if self.path != f"/owner/name/resolve/{COMMIT}/net.pth":
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{SHA256}"')
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if with_body:
            self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield address
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("hub")
def test_the_hub_gives_it_once(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = resolve([FILE])
    assert (found.origin, found.commit, found.sha256) == ("hub", COMMIT, SHA256)
    assert found.path.is_relative_to(machine / "hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert resolve([FILE])[0].origin == "cache"


@pytest.mark.usefixtures("hub")
def test_bytes_that_are_not_the_published_ones_are_refused() -> None:
    with pytest.raises(WeightsUnusableError, match="what the hub gave as owner/name/net.pth has SHA-256"):
        resolve([WeightsFile("owner/name", "net.pth", COMMIT, "0" * 64)])


@pytest.mark.usefixtures("hub")
def test_what_the_hub_does_not_have_is_missing_with_its_answer() -> None:
    with pytest.raises(WeightsMissingError, match=r"config\.json \(.*404.*\) of https"):
        resolve([CONFIG])


@pytest.mark.usefixtures("hub")
def test_the_hub_is_not_asked_where_that_is_not_wanted() -> None:
    with pytest.raises(WeightsMissingError):
        resolve([FILE], download=False)


def test_a_hub_that_cannot_be_reached_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    # the library tries five times and waits in between
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    with pytest.raises(WeightsMissingError, match=r"net\.pth \(.+\) of https"):
        resolve([FILE])


def test_files_of_the_cache_are_compared_with_what_the_hub_called_them(machine: Path) -> None:
    file = WeightsFile("owner/name", "net.pth")
    link = cached(machine, COMMIT)
    assert verify(file).verdict == "published"
    # a small file is called by its hash as git has it: `git hash-object`
    blob = link.resolve()
    small = blob.rename(blob.with_name("a16b9ee1f1ac5bc5fe7db1b7e2b0a5ae6ad53e1b"))
    link.unlink()
    link.symlink_to(small)
    assert verify(file).verdict == "another"
    git_hash = hashlib.sha1(b"blob 24\0" + CONTENT, usedforsecurity=False).hexdigest()
    link.unlink()
    link.symlink_to(small.rename(blob.with_name(git_hash)))
    assert verify(file).verdict == "published"
    link.resolve().write_bytes(CONTENT[:-1])
    assert verify(file).verdict == "another"
