"""One command for images, maps and captions, on a machine with one CPU: nothing waits for a CPU that actors hold."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controlmill.testing.captioned import rows_of
from controlmill.testing.command import Finished, run
from controlmill.testing.picture_server import PictureServer
from controlmill.testing.random_weights import write_weights
from controlmill.testing.ray_head import RayHead
from controlmill.testing.small_blip import write_small_blip
from flows.engines import RunServer

Run = Callable[..., Finished]


@pytest.fixture
def one_cpu(engines: tuple[RayHead, RunServer]) -> Iterator[Run]:
    with RayHead(num_cpus=1) as ray:
        environment = {**ray.environment, "PREFECT_API_URL": engines[1].api_url}
        yield lambda *words: run(*words, "--ray-address", ray.address, environment=environment)


def test_everything_at_once_and_rows_that_are_tried_again(one_cpu: Run, server: PictureServer, tmp_path: Path) -> None:
    dataset, blip = tmp_path / "dataset", write_small_blip(tmp_path / "small-blip")
    write_weights(tmp_path / "weights", "ControlNetHED.pth")
    paths = [f"/{'busy/' if number % 4 == 3 else ''}{number}.jpg" for number in range(12)]
    (tmp_path / "urls.txt").write_text("\n".join(map(server.url, paths)))
    words = ["build", "--url-list", tmp_path / "urls.txt", "--output-folder", dataset, "--image-size", 64]
    words += ["--number-sample-per-shard", 6, "--allow-private-networks", "--annotators", "canny,hed"]
    words += [f"annotator_options.hed.weights={tmp_path / 'weights'}"]
    built = one_cpu(*words, "--captioner", "blip", "--captioner-options", f"model={blip}", "captioner_options.seed=5")
    assert built.exit_code == 0, built.errors
    assert "12 rows in 2 shards" in built.output
    for layer in ("canny", "hed", "caption"):
        assert [row["key"] for row in rows_of(dataset, layer)] == [row["key"] for row in rows_of(dataset, "image")]

    # made by the same options, the layer is the one that `caption` makes
    captioned = one_cpu("caption", dataset, "--captioner", "blip", "--model", blip, "--seed", 5)
    assert "nothing to do: all 2 shards were done before" in captioned.output, captioned.errors

    server.is_healed = True
    again = one_cpu("retry", dataset, "--reason", "http_5xx", "--allow-private-networks")
    server.is_healed = False
    assert again.exit_code == 0, again.errors
    assert "3 images" in again.output
    captions = rows_of(dataset, "caption")
    assert len(captions) == len(rows_of(dataset, "hed")) == len(rows_of(dataset, "canny")) == 12
    assert all(row["caption"] for row in captions)

    options = f"annotator_options.scribble_hed.weights={tmp_path / 'weights'}"
    refused = one_cpu("annotate", dataset, "--annotators", "scribble_hed", "--device", "cuda", options)
    assert refused.exit_code == 5
    assert refused.errors.splitlines()[-1] == "error: device: cuda, but the Ray cluster has no GPU; use --device cpu"
    assert not (dataset / "scribble_hed").exists()
