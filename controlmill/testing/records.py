"""Commit records of shards that are not there, for tests of what is counted."""

from collections.abc import Mapping

from storage.record import CommitRecord


def record_of(layer: str, count: int, failed: Mapping[str, int] | None = None, reason: str = "") -> CommitRecord:
    """The record of a shard of `count` rows, of which these failed, by message; all of them for `reason`."""
    messages = dict(failed or {})
    num_failed = sum(messages.values())
    reason = reason or ("captioner_error" if layer == "caption" else "annotator_error")
    return CommitRecord(
        layer=layer,
        shard=0,
        count=count,
        successes=count - num_failed,
        rows=count,
        num_bytes=1,
        sha256="00",
        fingerprint="f",
        status_dict={"success": count - num_failed, **messages},
        reasons={reason: num_failed} if num_failed else {},
    )
