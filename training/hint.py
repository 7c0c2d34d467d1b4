"""The network E(.) that turns a hint into features of the latents' size, and how its weights start.

Shapes: B batch, C channels, H W height and width of latents; hints are 8 times as large.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it
from torch import Tensor, nn

HintInit = Literal["default", "kaiming"]

_V1_CHANNELS = (16, 32, 64, 128)


class V1HintNetwork(nn.Module):
    """E(.) as the first version of the article has it: 4x4 convolutions of stride 2, ReLU, 16, 32, 64, 128 channels.

    Four strides of 2 make a sixteenth of the hint's size, and the latents have an eighth: the text leaves that open
    (arXiv 2302.05543v1, section 3.2). Here the features are doubled in size behind the zero convolution, which the text
    does not have either, but every ControlNet has.
    """

    def __init__(self, num_out: int, num_in: int = 3) -> None:
        super().__init__()
        sizes = (num_in, *_V1_CHANNELS)
        layers = [nn.Conv2d(sizes[i], sizes[i + 1], kernel_size=4, stride=2, padding=1) for i in range(4)]
        self.conv_in, self.blocks = layers[0], nn.ModuleList(layers[1:])
        self.conv_out = nn.Conv2d(sizes[-1], num_out, kernel_size=1)
        for layer in layers:
            # "initialized with Gaussian weights", of which width is not said
            nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.weight[0].numel()))
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, hint_BCHW: Tensor) -> Tensor:
        """Features (B, num_out, H, W) of a hint (B, num_in, 8H, 8W)."""
        features_BCHW = hint_BCHW
        for layer in (self.conv_in, *self.blocks):
            features_BCHW = F.relu(layer(features_BCHW))
        size = tuple(side // 8 for side in hint_BCHW.shape[-2:])
        return F.interpolate(self.conv_out(features_BCHW), size=size, mode="nearest")


def inner_layers(network: nn.Module) -> Iterator[nn.Conv2d]:
    """The convolutions before the zero one."""
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d) and name != "conv_out":
            yield layer


def initialise(network: nn.Module, init: HintInit, gain: float = 1.3, *, seed: int) -> None:
    """Set the weights before training; the zero convolution behind them is left alone.

    With torch's default initialisation (Kaiming with a = sqrt(5), and biases), thin edges pass seven convolutions
    weakened to some hundredths of what the biases make. "kaiming" keeps the size of the signal (He et al., 2015, times
    `gain`) and has no biases.
    """
    if init == "default":
        return
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in inner_layers(network):
            spread = gain * math.sqrt(2 / layer.weight[0].numel())
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * spread)
            if layer.bias is not None:
                layer.bias.zero_()
