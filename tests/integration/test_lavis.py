"""Captions through LAVIS, really: in the environment that `controlmill env create blip-lavis` makes, as a Ray actor.

The environment is made when it is not there: some minutes, and the network of a package index. It stays.
"""

import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from controlmill.config import CaptionConfig, EngineOptions
from controlmill.errors import EnvironmentUnusableError
from controlmill.testing.captioned import encoded_disc, rows_of, write_discs
from controlmill.testing.command import Finished
from controlmill.testing.small_blip import WORDS, write_small_blip
from flows.crews import CAPTION, crews
from flows.engines import ray_cluster
from tasks import environments
from tasks.captioners.blip import Blip
from tasks.captioners.convert import to_lavis
from tasks.captioners.registry import create
from tasks.images.decode import decode_stored

pytestmark = pytest.mark.timeout(1800)

NUM_IMAGES = 200
BATCH = 20
KEYS = [f"{number:04d}" for number in range(NUM_IMAGES)]


@pytest.fixture(scope="module", autouse=True)
def _environment() -> None:
    try:
        environments.create("blip-lavis", print)
        versions = environments.check("blip-lavis")
    except EnvironmentUnusableError as error:
        pytest.fail(str(error))
    assert versions["salesforce-lavis"] == "1.0.2"
    assert versions["transformers"] == "4.26.1"
    assert versions["ray"] == version("ray")


@pytest.fixture(scope="module")
def _ray() -> Iterator[None]:
    with ray_cluster(EngineOptions()):
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_blip(tmp_path_factory.mktemp("weights") / "small-blip")


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [encoded_disc(number) for number in range(NUM_IMAGES)]


def config(folder: Path, captioner: str, **options: object) -> CaptionConfig:
    values = {"output_folder": "unused", "captioner": captioner, "model": str(folder), "device": "cpu", **options}
    return CaptionConfig.model_validate(values)


def by_lavis(folder: Path, pictures: list[bytes], *, kill_after: int | None = None, **options: object) -> list[str]:
    """Captions of the pictures; the actor is killed after `kill_after` batches."""
    settings = config(folder, "lavis", **options)
    batches = [
        (pictures[start : start + BATCH], KEYS[start : start + BATCH]) for start in range(0, len(pictures), BATCH)
    ]
    captions: list[str] = []
    with crews([], create(settings), settings)[CAPTION] as crew:
        pool = crew.ready(timeout_s=300)
        assert pool.versions["lavis:numpy"].startswith("1.")
        for number, made in enumerate(pool.map(batches)):
            assert all(failed is None for _, failed in made), made
            captions += [caption or "" for caption, _ in made]
            if number == kill_after:
                import ray

                os.kill(ray.get(pool.handles[0].process_id.remote()), signal.SIGKILL)
    return captions


def by_blip(folder: Path, pictures: list[bytes], **options: object) -> tuple[Blip, list[str]]:
    unit = create(config(folder, "blip", **options))
    assert isinstance(unit, Blip)
    unit.setup("cpu")
    return unit, [str(one) for one in unit([decode_stored(picture) for picture in pictures], KEYS)]


@pytest.fixture(scope="module")
def word_by_word(_ray: None, weights: Path, pictures: list[bytes]) -> list[str]:
    return by_lavis(weights, pictures, num_beams=1)


@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize("prompt", [None, ""])
def test_word_by_word_both_give_the_same_captions(
    weights: Path, pictures: list[bytes], word_by_word: list[str], prompt: str | None
) -> None:
    given = {} if prompt is None else {"prompt": prompt}
    theirs = word_by_word if prompt is None else by_lavis(weights, pictures, num_beams=1, **given)
    _, ours = by_blip(weights, pictures, num_beams=1, **given)
    assert theirs == ours
    assert len(set(ours)) > NUM_IMAGES // 4


@pytest.mark.usefixtures("_ray")
def test_beams_differ_seldom_and_only_by_how_length_counts(weights: Path, pictures: list[bytes]) -> None:
    """transformers 4.26 divides a beam's log-probability by its length with the prompt, 5 by that without it.

    Where the two choose differently, LAVIS's caption is the better one by LAVIS's count.
    """
    theirs = by_lavis(weights, pictures)
    unit, ours = by_blip(weights, pictures)
    different = [index for index in range(NUM_IMAGES) if theirs[index] != ours[index]]
    assert len(different) <= NUM_IMAGES * 6 // 100
    for index in different:
        lavis, blip = (_lavis_score(unit, pictures[index], captions[index]) for captions in (theirs, ours))
        assert lavis >= blip - 1e-3, (index, theirs[index], ours[index])


def _lavis_score(unit: Blip, picture: bytes, caption: str) -> float:
    """Log-probability of a caption, of its end too where it has one, over its length with the prompt."""
    prompt = unit._prompt_L.tolist()
    # a caption may begin with the rest of the prompt's last word
    for text in (f"{unit.options.prompt} {caption}", f"{unit.options.prompt}{caption}"):
        tokens = unit._tokenizer(text).input_ids[len(prompt) : -1]
        if WORDS.index("[UNK]") not in tokens:
            break
    pixels = unit._processor([decode_stored(picture)], return_tensors="pt", input_data_format="channels_last")
    with torch.inference_mode():
        seen = unit._network.vision_model(pixel_values=pixels["pixel_values"])[0]
        logits = unit._network.text_decoder(
            input_ids=torch.tensor([prompt + tokens]), encoder_hidden_states=seen
        ).logits[0].log_softmax(dim=-1)  # fmt: skip
    ended = tokens if len(tokens) == unit.options.max_new_tokens else [*tokens, WORDS.index("[SEP]")]
    total = math.fsum(float(logits[len(prompt) - 1 + place, token]) for place, token in enumerate(ended))
    return total / (len(prompt) + len(tokens))


@pytest.mark.usefixtures("_ray")
def test_lavis_form_of_the_weights_gives_the_same(
    weights: Path, pictures: list[bytes], word_by_word: list[str], tmp_path: Path
) -> None:
    torch.save({"model": to_lavis(load_file(weights / "model.safetensors"))}, tmp_path / "caption.pth")
    for name in ("vocab.txt", "preprocessor_config.json"):
        shutil.copy(weights / name, tmp_path)
    assert by_lavis(tmp_path, pictures, num_beams=1) == word_by_word


@pytest.mark.usefixtures("_ray")
def test_a_killed_actor_loses_nothing_and_repeats_nothing(weights: Path, pictures: list[bytes]) -> None:
    some = pictures[: 4 * BATCH]
    drawn = by_lavis(weights, some, do_sample=True)
    assert by_lavis(weights, some, do_sample=True, kill_after=1) == drawn
    assert by_lavis(weights, some, do_sample=True, seed=1) != drawn
    assert len(drawn) == len(some)


@pytest.mark.usefixtures("_ray")
def test_a_picture_that_cannot_be_decoded_is_one_failure(weights: Path) -> None:
    settings = config(weights, "lavis")
    with crews([], create(settings), settings)[CAPTION] as crew:
        pool = crew.ready(timeout_s=300)
        ((bad, good),) = pool.map([([b"not a picture", encoded_disc(1)], ["a", "b"])])
    assert bad[0] is None
    assert "UnidentifiedImageError" in str(bad[1])
    assert good[0]


def test_the_command_line(cluster: Callable[..., Finished], weights: Path, tmp_path: Path) -> None:
    write_discs(tmp_path / "pictures", 12)
    source = ["--image-folder", tmp_path / "pictures", "--output-folder", tmp_path / "dataset", "--image-size", 128]
    built = cluster("build", *source, "--encode-format", "png")
    assert built.exit_code == 0, built.errors
    words = ["caption", tmp_path / "dataset", "--captioner", "lavis", "--model", weights, "--num-beams", 1]
    captioned = cluster(*words)
    assert captioned.exit_code == 0, captioned.errors
    rows = rows_of(tmp_path / "dataset", "caption")
    assert len(rows) == 12
    assert all(row["caption"] and row["reason"] is None for row in rows)
    record = json.loads((tmp_path / "dataset/caption/00000_stats.json").read_text())
    assert record["unit"]["name"] == "lavis"
    assert record["versions"]["lavis:transformers"] == "4.26.1"
