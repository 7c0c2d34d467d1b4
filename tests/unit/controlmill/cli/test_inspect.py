"""What `inspect` counts and shows, on a dataset written by the real writer."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from controlmill.cli.inspect import print_survey
from controlmill.cli.main import main
from controlmill.cli.survey import ranges, survey
from storage.dataset import Dataset
from storage.description import PlanEntry, SourceDescription
from storage.record import CommitRecord, LayerInput, UnitDescription
from storage.schema import layer_schema, source_schema
from storage.writer import ShardWriter

FINGERPRINT = {"source": "a" * 64, "image": "b" * 64, "canny": "c" * 64}


def commit(
    dataset: Dataset, layer: str, shard: int, num_rows: int, *, reasons: dict[str, int] | None = None,
    inputs: dict[str, LayerInput] | None = None, fingerprint: str | None = None, flags: dict[str, int] | None = None,
    unit: str | None = None,
) -> str:  # fmt: skip
    schema = source_schema() if layer == "source" else layer_schema()
    reasons = reasons or {}
    with ShardWriter(dataset, layer, shard, schema) as writer:
        nulls = {field.name: pa.nulls(num_rows, field.type) for field in schema}
        writer.write(pa.table({**nulls, "key": [f"{shard:05d}{row}" for row in range(num_rows)]}, schema=schema))
        written = writer.close()
        writer.commit(
            CommitRecord(
                count=num_rows + sum(reasons.values()), successes=num_rows, layer=layer, shard=shard, rows=num_rows,
                num_bytes=written.num_bytes, sha256=written.sha256, inputs=inputs or {}, reasons=reasons,
                fingerprint=fingerprint or FINGERPRINT[layer], flags=flags or {},
                hosts={"a.example": reasons["timeout"]} if "timeout" in reasons else {},
                unit=UnitDescription(name=unit or layer, version="1"),
            )
        )  # fmt: skip
    return written.sha256


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Four planned shards of 5 rows; images of three; maps of two, one of them of older images."""
    made = Dataset.create(str(tmp_path / "data"))
    entry = PlanEntry(kind="plan", first_shard=0, num_shards=4, rows=20, complete=True)
    made.describe(source=SourceDescription(history=[entry]), options={"image": {"image_size": 512}})
    for shard in range(4):
        commit(made, "source", shard, 5)
    hashes = [
        commit(made, "image", 0, 5),
        commit(made, "image", 1, 2, reasons={"timeout": 2, "http_404": 1}),
        commit(made, "image", 2, 4, reasons={"timeout": 1}),
    ]
    image = FINGERPRINT["image"]
    commit(
        made,
        "canny",
        0,
        5,
        inputs={"image": LayerInput(fingerprint=image, sha256=hashes[0])},
        flags={"empty": 1, "grey": 0},
    )
    commit(made, "canny", 1, 2, inputs={"image": LayerInput(fingerprint=image, sha256="0" * 64)}, fingerprint="d" * 64)
    return made


def test_survey(dataset: Dataset) -> None:
    found = survey(dataset)
    assert (found.num_planned_shards, found.num_planned_rows, found.plan_complete) == (4, 20, True)
    assert [layer.name for layer in found.layers] == ["source", "image", "canny"]
    _, image, canny = found.layers
    assert (image.num_rows, image.num_shards, image.missing_shards, image.stale_shards) == (11, 3, [3], [])
    assert (canny.num_rows, canny.missing_shards, canny.stale_shards) == (7, [2, 3], [1])
    assert dict(canny.fingerprints) == {"c" * 64: 1, "d" * 64: 1}
    assert canny.inputs == ["image"]
    assert dict(canny.flags) == {"empty": 1, "grey": 0}
    assert dict(found.reasons) == {"timeout": 3, "http_404": 1}
    assert dict(found.hosts) == {"a.example": 3}


def test_json(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", dataset.uri, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dataset"] == dataset.uri
    assert found["num_planned_rows"] == 20
    assert found["options"] == {"image": {"image_size": 512}}
    assert [(layer["name"], layer["missing_shards"]) for layer in found["layers"]] == [
        ("source", []),
        ("image", [3]),
        ("canny", [2, 3]),
    ]
    assert found["layers"][1]["reasons"] == {"timeout": 3, "http_404": 1}


def test_text_fits_a_hundred_columns(dataset: Dataset) -> None:
    screen = io.StringIO()
    print_survey(survey(dataset), Console(file=screen, width=100))
    lines = [line.rstrip() for line in screen.getvalue().splitlines()]
    assert all(len(line) <= 100 for line in lines if str(dataset.uri) not in line)
    text = "\n".join(" ".join(line.split()) for line in lines)
    assert "20 rows planned in 4 shards" in text
    assert "image 11 3/4" in text
    assert "canny: missing shards: 2-3; run annotate --annotators canny again" in text
    assert "canny: shards of images that have changed: 1;" in text
    assert "canny: its shards were made in 2 ways" in text
    assert "image: missing shards: 3; run the same build again" in text
    assert "3 20.0% timeout no connection" in text
    assert "3 a.example" in text
    assert "1 empty" in text
    assert "grey" not in text
    assert "2 different" in text


def test_failures_of_a_layer_are_shown_in_words(whole: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    layer = whole.layer("canny")
    for shard in (2, 5):
        record = layer.record(shard)
        assert record is not None
        failed = {"success": 1, "ValueError: too narrow [/1 px]": 1}
        layer.write_record(record.model_copy(update={"status_dict": failed, "reasons": {"annotator_error": 1}}))
    assert main(["inspect", whole.uri]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "canny: rows without 2 ValueError: too narrow [/1 px]" in text


def test_a_layer_of_a_users_file_is_made_again_with_its_file(
    whole: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = whole.layer("canny")
    for shard in range(7):
        record = layer.record(shard)
        assert record is not None
        unit = UnitDescription(name="canny", version="1", config={"source_sha256": "0" * 64})
        layer.write_record(record.model_copy(update={"unit": unit}))
    layer.delete_record(7)
    assert main(["inspect", whole.uri]) == 0
    assert "canny: missing shards: 7; run annotate --annotators FILE.py:CLASS again" in capsys.readouterr().out


def test_retries_are_told_apart(dataset: Dataset) -> None:
    commit(dataset, "source", 4, 3, unit="retry")
    found = survey(dataset)
    assert (found.num_planned_rows, found.num_retry_rows) == (23, 3)
    screen = io.StringIO()
    print_survey(found, Console(file=screen, width=100))
    assert "23 rows planned in 5 shards, 3 of them to try a failed one again" in " ".join(screen.getvalue().split())


@pytest.fixture
def whole(tmp_path: Path) -> Dataset:
    """A dataset whose records and files agree."""
    made = Dataset.create(str(tmp_path / "whole"))
    for shard in range(8):
        source = commit(made, "source", shard, 2)
        inputs = {"source": LayerInput(fingerprint=FINGERPRINT["source"], sha256=source)}
        image = commit(made, "image", shard, 2, inputs=inputs)
        commit(made, "canny", shard, 2, inputs={"image": LayerInput(fingerprint=FINGERPRINT["image"], sha256=image)})
    return made


def damage(dataset: Dataset, layer: str, shard: int) -> None:
    path = Path(dataset.layer(layer).path(shard))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_verify_says_that_all_is_well(whole: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", whole.uri, "--verify"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("verified: 24 files, ")
    assert err == ""


def test_verify_names_what_is_damaged_and_the_remedy(whole: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    damage(whole, "canny", 3)
    assert main(["inspect", whole.uri]) == 0
    capsys.readouterr()
    assert main(["inspect", whole.uri, "--verify"]) == 4
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "canny/00003: its bytes are not those of its commit record"
    assert err == (
        f"error: {whole.uri}: 1 shard is damaged; delete canny/00003_stats.json and run `controlmill annotate` with "
        "canny again\n"
    )


def test_verify_of_many_kinds_of_damage(whole: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    for shard in range(7):
        damage(whole, "image", shard)
    damage(whole, "source", 1)
    assert main(["inspect", whole.uri, "--verify", "--json"]) == 4
    out, err = capsys.readouterr()
    problems = json.loads(out)["problems"]
    assert "source/00001: its bytes are not those of its commit record" in problems
    assert len(problems) == 8
    assert "8 shards are damaged; restore source/00001.parquet from a copy, or start again in another output" in err
    assert "delete image/00000_stats.json, image/00001_stats.json, " in err
    assert " and 2 more, all named above and run the same build again" in err
    assert err.count("\n") == 1


def test_a_folder_that_is_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 4
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} is no controlmill dataset")


def test_an_empty_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Dataset.create(str(tmp_path / "data"))
    assert main(["inspect", made.uri]) == 0
    assert "0 rows planned in 0 shards; its source is not wholly planned" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([3], "3"),
        ([3, 1, 2, 7], "1-3, 7"),
        ([0, 2, 4, 6, 8, 10, 12, 14, 16, 17, 18], "0, 2, 4, 6, 8, 10, 12, 14 and 3 more"),
    ],
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text
