"""y = F(x) + Z(F'(x + Z(c))) on a residual block, a transformer block and a perceptron."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from training.control import Controlled, control, is_unchanged


class ResidualBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


Draw = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
"""x and a condition from a seed."""


def drawn(seed: int, *shapes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shapes[0], generator=generator), torch.randn(shapes[1], generator=generator)


def residual() -> tuple[Controlled, Draw]:
    return control(ResidualBlock(), 8, 1), lambda seed: drawn(seed, (8, 8, 6, 6), (8, 1, 6, 6))


def transformer() -> tuple[Controlled, Draw]:
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return control(block, 8, 1, feature="last"), lambda seed: drawn(seed, (16, 7, 8), (16, 7, 1))


def perceptron() -> tuple[Controlled, Draw]:
    network = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8)).eval()
    return control(network, 8, 1, feature="last"), lambda seed: drawn(seed, (64, 8), (64, 1))


def loss_of(controlled: Controlled, x: torch.Tensor, given: torch.Tensor, meant: torch.Tensor) -> torch.Tensor:
    """How far it is from moving every feature by what the condition says."""
    moved = meant if meant.ndim < 4 else meant.expand(-1, 8, -1, -1)
    return (controlled(x, given) - (controlled.locked(x) + moved)).square().mean()


@pytest.mark.parametrize("make", [residual, transformer, perceptron])
def test_it_is_unchanged_at_step_0_learns_a_condition_and_leaves_the_locked_network(
    make: Callable[[], tuple[Controlled, Draw]],
) -> None:
    torch.manual_seed(0)
    controlled, draw = make()
    locked = copy.deepcopy(controlled.locked.state_dict())
    x, condition = draw(0)
    assert is_unchanged(controlled, x, condition)
    controlled.train()
    before = loss_of(controlled, x, condition, condition).item()
    optimizer = torch.optim.Adam(controlled.trainable_parameters(), lr=2e-2)
    for update in range(1, 151):
        new_x, new_condition = draw(update)
        optimizer.zero_grad()
        loss_of(controlled, new_x, new_condition, new_condition).backward()
        optimizer.step()
    # x and condition were never trained on, and another condition than the one that is meant is worse than none
    assert loss_of(controlled, x, condition, condition).item() < 0.4 * before
    assert loss_of(controlled, x, condition.flip(0), condition).item() > before
    for name, value in controlled.locked.state_dict().items():
        assert torch.equal(value, locked[name]), name
    assert all(parameter.grad is None for parameter in controlled.locked.parameters())


def test_gradients_arrive_in_their_order() -> None:
    torch.manual_seed(0)
    controlled, draw = residual()
    x, condition = draw(0)
    optimizer = torch.optim.SGD(controlled.trainable_parameters(), lr=0.1)
    seen = []
    for _ in range(2):
        optimizer.zero_grad()
        controlled(x, condition).square().mean().backward()
        parts = {"output": controlled.output, "copy": controlled.copy, "condition_in": controlled.condition_in}
        seen.append([name for name, part in parts.items() if any(bool(p.grad.any()) for p in part.parameters())])
        optimizer.step()
    assert seen == [["output"], ["output", "copy", "condition_in"]]


def test_controlled_networks_chain() -> None:
    first, draw = residual()
    x, condition = draw(0)
    second = control(ResidualBlock(), 8, 1)
    second(first(x, condition), condition).square().mean().backward()
    gradient = first.output.weight.grad
    assert gradient is not None
    assert gradient.any()
