"""SHA-256 of large files, computed once: remembered by path, size and time of the last change."""

import contextlib
import hashlib
import json
import secrets
from pathlib import Path
from typing import Any


def sha256_of(path: Path, *, anew: bool = False) -> str:
    """SHA-256 of a file, hex; `anew` reads it even where its hash is known.

    Raises:
        OSError: the file cannot be read.
    """
    real = path.resolve()
    stat = real.stat()
    state = [stat.st_size, stat.st_mtime_ns]
    known = _remembered()
    if not anew and known.get(str(real), {}).get("state") == state:
        return str(known[str(real)]["sha256"])
    with real.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _remember(str(real), {"state": state, "sha256": digest})
    return digest


def _place() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("controlmill") / "weights.json"


def _remembered() -> dict[str, Any]:
    try:
        known = json.loads(_place().read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(path: str, entry: dict[str, Any]) -> None:
    """Two processes may write at once and one entry be lost; it is then computed again."""
    place = _place()
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    # a home that cannot be written to costs time, nothing else
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        known = {name: value for name, value in _remembered().items() if Path(name).exists()}
        temporary.write_text(json.dumps({**known, path: entry}, indent=1))
        temporary.replace(place)
