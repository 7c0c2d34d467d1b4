"""How much of a hint passes the network of hints at its start."""

import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

from training.hint import V1HintNetwork, initialise, inner_layers


def edges(number: int) -> torch.Tensor:
    """Thin lines on black, as Canny draws them, one picture per number."""
    generator = torch.Generator().manual_seed(number)
    hint = torch.zeros(1, 3, 64, 64)
    for place in torch.randint(4, 60, (3,), generator=generator).tolist():
        hint[:, :, place, :] = 1
        hint[:, :, :, place] = 1
    return hint


def passed(network: torch.nn.Module) -> float:
    """Part of the features before the zero convolution that depends on the hint, rms over pictures."""
    seen: list[torch.Tensor] = []
    handle = network.conv_out.register_forward_pre_hook(lambda _layer, given: seen.append(given[0]))  # type: ignore[union-attr, operator]
    with torch.no_grad():
        for number in range(8):
            network(edges(number))
    handle.remove()
    features = torch.cat(seen)
    return float((features - features.mean(dim=0)).square().mean().sqrt())


def test_thin_edges_pass_the_kaiming_start_a_hundred_times_stronger() -> None:
    torch.manual_seed(0)
    network = ControlNetConditioningEmbedding(16, block_out_channels=(16, 32, 96, 256))
    before = passed(network)
    initialise(network, "default", seed=0)
    assert passed(network) == before
    initialise(network, "kaiming", gain=1.3, seed=0)
    assert passed(network) > 100 * before
    assert not any(layer.bias.any() for layer in inner_layers(network) if layer.bias is not None)
    assert not network.conv_out.weight.any()
    assert len(list(inner_layers(network))) == 7


def test_the_gain_is_per_layer() -> None:
    network = ControlNetConditioningEmbedding(16, block_out_channels=(16, 32, 96, 256))
    spread = {}
    for gain in (1.0, 2.0):
        initialise(network, "kaiming", gain=gain, seed=0)
        spread[gain] = float(network.blocks[3].weight.std().detach())
    assert spread[2.0] == pytest.approx(2 * spread[1.0])


@pytest.mark.parametrize("size", [(64, 64), (72, 56)])
def test_the_network_of_the_text_gives_features_of_the_size_of_latents(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = V1HintNetwork(20, num_in=6)
    made = network(torch.rand(1, 6, *size))
    assert made.shape == (1, 20, size[0] // 8, size[1] // 8)
    assert not made.any()
    for layer in inner_layers(network):
        assert float(layer.weight.std().detach()) == pytest.approx(layer.weight[0].numel() ** -0.5, rel=0.2)
