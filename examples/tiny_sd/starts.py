"""Where the weights of the small networks start: near something sensible, or two minutes of training are not enough.

A colour goes through a SiLU as a pair (x, -x): silu(x) - silu(-x) = x, so what one layer splits the next one joins.
Residual blocks start as identities, downsampling as the mean of 2 x 2, upsampling as a copy.
"""

import torch
from torch import nn

_NOISE = 0.02
_LOG_VARIANCE = -5.0


def start_autoencoder(vae: nn.Module) -> None:
    """Let an AutoencoderKL start as averaging over its factor of 8 and copying back.

    From the usual start it passes one of three colour axes for hundreds of updates.
    """
    _identity_blocks(vae)
    latent = vae.config.latent_channels
    with torch.no_grad():
        _split(vae.encoder.conv_in, 3)
        _join(vae.encoder.conv_out, 3)
        vae.encoder.conv_out.bias[latent:] = _LOG_VARIANCE
        _copy(vae.quant_conv)
        _copy(vae.post_quant_conv)
        _split(vae.decoder.conv_in, 3)
        _join(vae.decoder.conv_out, 3)


def start_denoiser(unet: nn.Module) -> None:
    """Let a UNet2DConditionModel start as the answer "all of it is noise": its last skip connection, joined."""
    _identity_blocks(unet)
    last = unet.up_blocks[-1].resnets[-1]
    with torch.no_grad():
        _split(unet.conv_in, unet.config.in_channels)
        _join(unet.conv_out, unet.config.out_channels)
        # its input is what comes from below, then the output of conv_in
        num_skip = unet.conv_in.out_channels
        last.conv_shortcut.weight.zero_()
        last.conv_shortcut.bias.zero_()
        for channel in range(num_skip):
            last.conv_shortcut.weight[channel, -num_skip + channel] = 1.0


def _identity_blocks(network: nn.Module) -> None:
    """Residual blocks add nothing, changes of width take the first channels, changes of size average or copy."""
    with torch.no_grad():
        for name, module in network.named_modules():
            if not isinstance(module, nn.Conv2d):
                continue
            if name.endswith("conv2"):
                module.weight.mul_(_NOISE)
                module.bias.zero_()
            elif name.endswith("conv_shortcut"):
                _copy(module)
            elif name.endswith("samplers.0.conv"):
                _copy(module, mean=module.stride[0] == 2)


def _copy(conv: nn.Conv2d, *, mean: bool = False) -> None:
    """Channel i to channel i: its middle, or the mean of 2 x 2 (diffusers pads right and below before it strides)."""
    middle = _quieten(conv)
    for channel in range(min(conv.in_channels, conv.out_channels)):
        if mean:
            conv.weight[channel, channel, :2, :2] += 0.25
        else:
            conv.weight[channel, channel, middle, middle] += 1.0


def _split(conv: nn.Conv2d, num: int) -> None:
    """Each of the first `num` channels becomes the pair (x, -x)."""
    middle = _quieten(conv)
    for channel in range(num):
        conv.weight[channel, channel, middle, middle] += 1.0
        conv.weight[num + channel, channel, middle, middle] -= 1.0


def _join(conv: nn.Conv2d, num: int) -> None:
    """Each of the first `num` pairs becomes one channel."""
    middle = _quieten(conv)
    for channel in range(num):
        conv.weight[channel, channel, middle, middle] += 1.0
        conv.weight[channel, num + channel, middle, middle] -= 1.0


def _quieten(conv: nn.Conv2d) -> int:
    """Leave next to nothing of a convolution; returns the place of its middle."""
    conv.weight.mul_(_NOISE)
    conv.bias.zero_()
    return conv.kernel_size[0] // 2
