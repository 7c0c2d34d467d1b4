import json

from storage.record import CommitRecord, LayerInput, UnitDescription

RECORD = CommitRecord(
    count=10,
    successes=8,
    failed_to_download=2,
    status_dict={"success": 8, "HTTP 404": 2},
    layer="image",
    shard=3,
    rows=8,
    num_bytes=1234,
    sha256="ab",
    fingerprint="cd",
    inputs={"source": LayerInput(fingerprint="x", sha256="y")},
    unit=UnitDescription(name="pull", version="1", config={"max_image_area": float("inf")}),
    reasons={"http_404": 2},
)


def test_json_has_the_names_that_img2dataset_writes() -> None:
    content = json.loads(RECORD.to_json())
    img2dataset = {"count": 10, "successes": 8, "failed_to_download": 2, "failed_to_resize": 0}
    assert content.items() >= img2dataset.items()
    assert {"duration", "start_time", "end_time", "status_dict"} <= set(content)
    assert content["bytes"] == 1234
    assert content["unit"]["config"] == {"max_image_area": "Infinity"}


def test_round_trip() -> None:
    again = CommitRecord.from_json(RECORD.to_json())
    assert again is not None
    assert again.model_copy(update={"unit": RECORD.unit}) == RECORD


def test_keys_of_newer_versions_are_passed_over() -> None:
    content = json.loads(RECORD.to_json()) | {"blake3": "zz"}
    again = CommitRecord.from_json(json.dumps(content).encode())
    assert again is not None
    assert again.sha256 == "ab"


def test_what_is_no_record() -> None:
    assert CommitRecord.from_json(b"") is None
    assert CommitRecord.from_json(RECORD.to_json()[:-20]) is None
    assert CommitRecord.from_json(b"[]") is None
    assert CommitRecord.from_json(b'{"count": 3, "successes": 3}') is None
