"""What a training run leaves in a Ray that goes on without it: nothing, also where it was killed."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from controlmill.testing.command import Command
from controlmill.testing.ranks import run_options
from controlmill.testing.ray_head import RayHead
from controlmill.testing.tiny_sd import write_tiny_sd
from controlmill.testing.training_set import write_training_set

pytestmark = pytest.mark.timeout(600)

PATIENCE_S = 90.0


@pytest.fixture
def head() -> Iterator[RayHead]:
    with RayHead() as head:
        yield head


def test_a_killed_training_leaves_nothing_and_the_next_one_has_its_place(head: RayHead, tmp_path: Path) -> None:
    write_tiny_sd(tmp_path / "base", unet_widths=(16, 16, 16, 16))
    write_training_set(tmp_path, num_rows=16)
    options = run_options(tmp_path, "run", max_train_steps=40, checkpointing_steps=2, num_workers=2)
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(options))
    words = ["train", str(tmp_path / "train.yaml"), "--ray-address", head.address]
    environment = {**head.environment, "XDG_DATA_HOME": str(tmp_path / "data")}

    killed = Command(words, tmp_path / "killed.log", environment)
    committed = tmp_path / "run" / "checkpoint-2" / "commit.json"
    assert killed.wait_for(committed.exists), killed.output
    killed.kill("flow", random.Random(0))
    killed.process.wait()
    assert wait_for_nothing(head) == []

    # both CPUs of the cluster are free again
    resumed = Command([*words, "--resume-from-checkpoint", "latest"], tmp_path / "resumed.log", environment)
    assert resumed.process.wait() == 0, resumed.output
    assert wait_for_nothing(head) == []


def wait_for_nothing(head: RayHead) -> list[str]:
    """The tasks and actors that are still there after a while."""
    deadline_s = time.monotonic() + PATIENCE_S
    while (titles := head.titles()) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return titles
