"""From URLs to a ControlNet in one run, with every stage; a second run makes what is new, and nothing again."""

import json
import urllib.request
from collections import Counter
from pathlib import Path

import yaml

from controlmill.testing.command import parquet_hashes, run
from controlmill.testing.picture_server import PictureServer
from controlmill.testing.ray_head import RayHead
from controlmill.testing.tiny_sd import write_tiny_sd
from flows.engines import RunServer

STAGES = ("build-and-train", "build-dataset", "encode-dataset", "train-controlnet", "evaluate-controlnet")
LAYERS = {"source", "image", "failures", "canny", "latent", "text_embedding"}


def write_options(folder: Path, ray_address: str) -> Path:
    build = {
        "url_list": str(folder / "urls.txt"), "output_folder": str(folder / "dataset"), "image_size": 64,
        "incremental_mode": "extend", "number_sample_per_shard": 10, "resize_mode": "center_crop",
        "annotators": ["canny"], "allow_private_networks": True, "ray_address": ray_address,
    }  # fmt: skip
    train = {
        "condition": ["canny"], "keep_empty_hints": True, "resolution": 64, "train_batch_size": 2, "preflight": False,
        "pretrained_model_name_or_path": str(write_tiny_sd(folder / "base", unet_widths=(16, 16, 16, 16))),
        "output_dir": str(folder / "run"), "num_probe_rows": 4, "report_to": [], "additional_train_steps": 2,
    }  # fmt: skip
    path = folder / "options.yaml"
    exported = str(folder / "run" / "control.safetensors")
    path.write_text(yaml.safe_dump({"build": build, "train": train, "evaluate": True, "export_cldm": exported}))
    return path


def write_urls(folder: Path, server: PictureServer, num: int) -> None:
    (folder / "urls.txt").write_text("\n".join(server.url(f"/{number}.jpg") for number in range(num)))


def ended(prefect: RunServer) -> Counter[tuple[str, str]]:
    """How often the flow of each stage ended how; other tests of this server have flows of the same names."""

    def ask(what: str, body: dict[str, object]) -> list[dict[str, str]]:
        request = urllib.request.Request(f"{prefect.api_url}/{what}/filter", json.dumps(body).encode())  # noqa: S310
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - loopback
            return list(json.load(answer))

    names = {flow["id"]: flow["name"] for flow in ask("flows", {})}
    return Counter((names[one["flow_id"]], one["state_type"]) for one in ask("flow_runs", {}))


def updates(folder: Path) -> list[int]:
    return [json.loads(line)["update"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_all_stages_run_and_a_second_run_only_adds(
    engines: tuple[RayHead, RunServer], server: PictureServer, tmp_path: Path
) -> None:
    ray, prefect = engines
    environment = {**ray.environment, "PREFECT_API_URL": prefect.api_url}
    options, dataset, folder = write_options(tmp_path, ray.address), tmp_path / "dataset", tmp_path / "run"
    before = ended(prefect)
    write_urls(tmp_path, server, 30)
    first = run("build-and-train", options, environment=environment)
    assert first.exit_code == 0, first.errors
    assert ended(prefect) - before == {(stage, "COMPLETED"): 1 for stage in STAGES}
    assert updates(folder) == [1, 2]
    assert (folder / "control.safetensors").is_file()
    (measured,) = json.loads((folder / "evaluation.json").read_text())["measurements"]
    assert len(measured["own"]) >= 2

    made, num_requests = parquet_hashes(dataset), len(server.requests)
    assert {name.partition("/")[0] for name in made} == LAYERS
    write_urls(tmp_path, server, 40)
    second = run("build-and-train", options, environment=environment)
    assert second.exit_code == 0, second.errors
    assert {request.path for request in server.requests[num_requests:]} - {"/robots.txt"} == {
        f"/{number}.jpg" for number in range(30, 40)
    }
    grown = parquet_hashes(dataset)
    assert {name: grown[name] for name in made} == made
    assert {name for name in grown if name not in made} >= {f"{layer}/00003.parquet" for layer in LAYERS}
    assert updates(folder) == [1, 2, 3, 4]
    assert (folder / "checkpoint-4").is_dir()
