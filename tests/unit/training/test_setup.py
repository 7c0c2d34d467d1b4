"""What a run needs of its machine is said before it trains."""

import pytest
import torch

from controlmill.errors import ConfigError
from training.engine import import_deepspeed
from training.place import Place
from training.setup import check_nvme_offload


def test_offload_to_a_disk_says_which_library_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(0, 1, torch.device("cpu"))
    import_deepspeed(place.device)
    from deepspeed.ops.op_builder import AsyncIOBuilder

    monkeypatch.setattr(AsyncIOBuilder, "has_function", lambda *_, **__: False)
    with pytest.raises(ConfigError, match="offload_optimizer nvme: .* install libaio-dev"):
        check_nvme_offload(place)
