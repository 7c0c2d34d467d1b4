from pathlib import Path

import pytest

from flows.session import session
from storage.dataset import Dataset


@pytest.mark.parametrize("fails", [False, True])
def test_what_killed_workers_left_goes_with_the_session(tmp_path: Path, *, fails: bool) -> None:
    dataset = Dataset(str(tmp_path / "dataset"))
    (tmp_path / "dataset" / "hed").mkdir(parents=True)
    (tmp_path / "dataset" / "hed" / "00000.parquet").touch()
    left = tmp_path / "dataset" / "hed" / ".00002.parquet.4f57ef8fe6a9.tmp"

    def work() -> None:
        with session(dataset, lambda: [0]):
            left.touch()
            if fails:
                raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            work()
    else:
        work()
    assert not left.exists()
    assert (tmp_path / "dataset" / "hed" / "00000.parquet").exists()
