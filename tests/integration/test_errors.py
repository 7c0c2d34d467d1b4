"""What goes wrong before or between shards is one line on stderr, an exit code, and nothing half-written."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controlmill.testing.command import Finished, parquet_hashes, run
from controlmill.testing.picture_server import PictureServer
from controlmill.testing.ray_head import RayHead
from flows.engines import RunServer
from storage.dataset import Dataset
from storage.verify import verify

Run = Callable[..., Finished]

COMMON = ["--image-size", 64, "--resize-mode", "center_crop", "--allow-private-networks"]


@pytest.fixture
def url_list(server: PictureServer, tmp_path: Path) -> Path:
    path = tmp_path / "urls.txt"
    path.write_text("\n".join(server.url(f"/{number}.jpg") for number in range(40)))
    return path


def the_error(finished: Finished, code: int) -> str:
    """The one line that says what is wrong."""
    assert finished.exit_code == code, (finished.exit_code, finished.errors)
    assert "Traceback" not in finished.errors
    assert not finished.output
    (line,) = [line for line in finished.errors.splitlines() if "error" in line]
    assert line.startswith("error: ")
    return line


def assert_nothing_half_written(dataset: Path) -> None:
    assert not [path for path in dataset.rglob("*") if path.name.endswith(".tmp")]
    for record in dataset.rglob("*_stats.json"):
        assert record.with_name(record.name.replace("_stats.json", ".parquet")).exists()
    if (dataset / "dataset.json").exists():
        assert list(verify(Dataset(str(dataset)), deep=True)) == []


@pytest.mark.parametrize(
    ("source", "content", "code", "texts"),
    [
        ("absent.txt", None, 3, ["absent.txt", "no such file"]),
        ("empty.txt", "", 3, ["empty.txt", "not one row"]),
        ("blank.txt", "\n\n \n", 3, ["blank.txt", "not one row"]),
        ("header.csv", "url,caption\n", 3, ["header.csv", "not one row"]),
        ("other.csv", "link,caption\nhttp://a/1.jpg,x\n", 3, ["other.csv", "'url'", "link, caption"]),
        ("urls.parquet", "no parquet", 3, ["urls.parquet", "cannot be read"]),
        ("urls.dat", "http://a/1.jpg\n", 3, ["urls.dat", "input_format"]),
    ],
)
def test_a_source_that_cannot_be_used(
    cluster: Run, tmp_path: Path, source: str, content: str | None, code: int, texts: list[str]
) -> None:
    if content is not None:
        (tmp_path / source).write_text(content)
    finished = cluster("build", "--url-list", source, "--output-folder", "dataset", *COMMON, folder=tmp_path)
    line = the_error(finished, code)
    assert all(text in line for text in texts), line
    assert not list((tmp_path / "dataset").rglob("*.parquet"))
    assert not (tmp_path / "dataset" / "dataset.json").exists()


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["annotate", "nowhere", "--annotators", "canny"], ["nowhere is no controlmill dataset"]),
        (["retry", "nowhere", "--reason", "timeout"], ["nowhere is no controlmill dataset"]),
    ],
)
def test_a_folder_that_is_no_dataset(cluster: Run, tmp_path: Path, words: list[object], texts: list[str]) -> None:
    line = the_error(cluster(*words, folder=tmp_path), 4)
    assert all(text in line for text in texts), line
    assert list(tmp_path.iterdir()) == []


def test_somebody_elses_folder_is_left_alone(cluster: Run, url_list: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("x")
    for mode in ("incremental", "extend", "overwrite"):
        words = ["build", "--url-list", url_list, "--output-folder", tmp_path / "thesis", *COMMON]
        line = the_error(cluster(*words, "--incremental-mode", mode), 4)
        assert "thesis.tex" in line
    assert sorted(path.name for path in (tmp_path / "thesis").iterdir() if path.name[0] != ".") == ["thesis.tex"]


def test_a_dataset_without_images_has_nothing_to_annotate(cluster: Run, tmp_path: Path) -> None:
    words = ["--output-folder", tmp_path / "dataset", *COMMON]
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    gone = tmp_path / "gone.txt"
    gone.write_text("\n".join(f"http://127.0.0.1:{port}/{number}.jpg" for number in range(3)))
    assert cluster("build", "--url-list", gone, *words).exit_code == 0
    finished = cluster("annotate", tmp_path / "dataset", "--annotators", "canny")
    assert finished.exit_code == 0, finished.errors
    assert_nothing_half_written(tmp_path / "dataset")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_an_output_folder_without_permission(cluster: Run, url_list: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir(mode=0o500)
    words = ["build", "--url-list", url_list, "--output-folder", tmp_path / "mine" / "dataset", *COMMON]
    assert "mine/dataset: Permission denied" in the_error(cluster(*words), 4)


def test_an_output_folder_that_is_a_file(cluster: Run, url_list: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/dataset"):
        words = ["build", "--url-list", url_list, "--output-folder", tmp_path / place, *COMMON]
        assert f"{tmp_path}/file" in the_error(cluster(*words), 4)
    assert (tmp_path / "file").read_text() == "x"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 kB; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_what_was_done_and_the_rest_can_be_made_later(
    cluster: Run, server: PictureServer, small_disk: Path, tmp_path: Path
) -> None:
    url_list = tmp_path / "urls.txt"
    url_list.write_text("\n".join(server.url(f"/{number}.jpg?{turn}") for turn in range(20) for number in range(40)))
    dataset = small_disk / "dataset"
    words = ["build", "--url-list", url_list, "--output-folder", dataset, "--number-sample-per-shard", 20, *COMMON]
    line = the_error(cluster(*words, "--encode-format", "png", "--annotators", "canny"), 4)
    assert f"cannot write {dataset}" in line
    assert "No space left on device" in line
    assert_nothing_half_written(dataset)
    before = parquet_hashes(dataset)
    assert any(name.startswith("image/") for name in before)

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    finished = cluster(*words, "--encode-format", "png", "--annotators", "canny")
    assert finished.exit_code == 0, finished.errors
    images = {name: digest for name, digest in before.items() if name.startswith("image/")}
    assert parquet_hashes(dataset).items() >= images.items()
    assert len(list((dataset / "image").glob("*.parquet"))) == 40
    assert_nothing_half_written(dataset)


def test_an_unreachable_ray(url_list: Path, tmp_path: Path, cluster: Run) -> None:
    words = ["build", "--url-list", url_list, "--output-folder", tmp_path / "dataset", *COMMON]
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    finished = cluster(*words, "--ray-address", f"127.0.0.1:{port}")
    assert f"127.0.0.1:{port}" in the_error(finished, 5)
    assert_nothing_half_written(tmp_path / "dataset")


def test_an_unreachable_prefect_server(url_list: Path, tmp_path: Path, engines: tuple[RayHead, RunServer]) -> None:
    ray, _ = engines
    with socket.create_server(("127.0.0.1", 0)) as closed:
        api_url = f"http://127.0.0.1:{closed.getsockname()[1]}/api"
    words = ["build", "--url-list", url_list, "--output-folder", tmp_path / "dataset", *COMMON]
    environment = {**ray.environment, "PREFECT_API_URL": api_url}
    finished = run(*words, "--ray-address", ray.address, environment=environment)
    assert api_url in the_error(finished, 5)
    assert_nothing_half_written(tmp_path / "dataset")


def test_another_image_size_is_fine_while_there_are_no_images(cluster: Run, url_list: Path, tmp_path: Path) -> None:
    words = ["build", "--url-list", url_list, "--output-folder", tmp_path / "dataset", *COMMON]
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"127.0.0.1:{closed.getsockname()[1]}"
    assert nowhere in the_error(cluster(*words, "--ray-address", nowhere), 5)
    finished = cluster(*words, "--image-size", 128)
    assert finished.exit_code == 0, finished.errors
    assert_nothing_half_written(tmp_path / "dataset")
