"""What a run needs of its machine is said before it trains."""

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D

from controlmill.errors import ConfigError
from training.engine import import_deepspeed
from training.place import Place
from training.setup import check_nvme_offload, compile_blocks


def test_offload_to_a_disk_says_which_library_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(0, 1, torch.device("cpu"))
    import_deepspeed(place.device)
    from deepspeed.ops.op_builder import AsyncIOBuilder

    monkeypatch.setattr(AsyncIOBuilder, "has_function", lambda *_, **__: False)
    with pytest.raises(ConfigError, match="offload_optimizer nvme: .* install libaio-dev"):
        check_nvme_offload(place)


# torch's own compiler uses what torch itself calls outdated
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("sizes_vary", [False, True])
def test_compiled_blocks_compute_the_same(*, sizes_vary: bool) -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = ResnetBlock2D(in_channels=8, out_channels=8, temb_channels=4, groups=4)  # type: ignore[no-untyped-call]

        def forward(self, x_BCHW: torch.Tensor, time_BD: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.block(x_BCHW, time_BD)
            return made

    torch.manual_seed(0)
    network, given = Network(), (torch.randn(2, 8, 8, 8), torch.randn(2, 4))
    expected = network(*given)
    expected.sum().backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    network.zero_grad(set_to_none=True)
    torch.compiler.reset()  # type: ignore[no-untyped-call]
    torch._dynamo.utils.counters.clear()
    compile_blocks(network, sizes_vary=sizes_vary)
    found = network(*given)
    found.sum().backward()
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    torch.testing.assert_close(found, expected)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-4, rtol=1e-4)
