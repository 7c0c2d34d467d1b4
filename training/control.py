"""ControlNet's idea for any network: y = F(x) + Z(F'(x + Z(c))).

F is the network, locked; F' a copy of it that is trained; both Z are layers that start as zero (arXiv 2302.05543,
equations 2 to 4). So the controlled network computes at first what the network did, bit for bit, and learns from there.
Networks are called with one tensor and give one; x, c and y have their features in the same dimension.
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

Feature = Literal["channels", "last"]


def zero_convolution(num_in: int, num_out: int, num_dims: int = 2) -> nn.Module:
    """A 1x1 convolution of `num_dims` dimensions whose weights and biases are zero."""
    kinds: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    return _zeroed(kinds[num_dims](num_in, num_out, kernel_size=1))


def zero_linear(num_in: int, num_out: int) -> nn.Module:
    """A linear layer whose weights and biases are zero: the zero convolution of sequences and vectors."""
    return _zeroed(nn.Linear(num_in, num_out))


def _zeroed(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class Controlled(nn.Module):
    """A locked network, a trainable copy of it, and the two zero layers between them."""

    def __init__(self, locked: nn.Module, condition_in: nn.Module, output: nn.Module) -> None:
        """Wrap a network.

        Args:
            locked: F; its parameters get no gradients from now on, and its mode (train or eval) is kept.
            condition_in: Z that brings the condition into the space of x.
            output: Z that brings the copy's output into the space of y.
        """
        super().__init__()
        self.copy = copy.deepcopy(locked).requires_grad_(True)
        self.locked = locked.requires_grad_(False)
        self.condition_in = condition_in
        self.output = output
        self._locked_training = locked.training

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Give y for x and a condition; gradients also go through F to x, so that they can be chained."""
        result: Tensor = self.locked(x) + self.output(self.copy(x + self.condition_in(condition)))
        return result

    def train(self, mode: bool = True) -> "Controlled":  # noqa: FBT001, FBT002 - torch's signature
        """Set the mode of what is trained; the locked network keeps its own, and so its statistics."""
        super().train(mode)
        self.locked.train(self._locked_training)
        return self

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What an optimizer is to have: the copy and the zero layers."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def control(
    network: nn.Module, num_features: int, num_condition: int, *, feature: Feature = "channels", num_dims: int = 2
) -> Controlled:
    """Control a network whose input and output have the same number of features.

    Args:
        network: F.
        num_features: of x and y.
        num_condition: features of the condition.
        feature: where they are: in dimension 1, as convolutions have them, or in the last, as linear layers do.
        num_dims: dimensions behind the channels (2 for images).
    """
    if feature == "last":
        return Controlled(network, zero_linear(num_condition, num_features), zero_linear(num_features, num_features))
    return Controlled(
        network,
        zero_convolution(num_condition, num_features, num_dims),
        zero_convolution(num_features, num_features, num_dims),
    )


@torch.no_grad()
def is_unchanged(controlled: Controlled, x: Tensor, condition: Tensor) -> bool:
    """Whether it still computes, bit for bit, what the locked network does: true before the first update."""
    return torch.equal(controlled(x, condition), controlled.locked(x))
