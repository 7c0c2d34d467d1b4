"""Networks of the annotators with random weights from a seed, under the names and in the formats of the real files.

The weights are scaled so that maps are neither empty nor saturated. Nothing is downloaded.
"""

import contextlib
import importlib
import io
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from controlmill.testing.pictures import photo


def write_weights(folder: Path, *filenames: str, seed: int = 0) -> None:
    """Write files into `folder`, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for filename in filenames:
        if not (folder / filename).exists():
            with _quiet():
                _WRITERS[filename](folder / filename, seed)


def write_segmentation(folder: Path, kind: str = "upernet", seed: int = 0) -> None:
    """Write a small UperNet or Mask2Former ("mask2former") with 150 classes, as transformers saves one."""
    import torch

    # its configuration classes take more than their type stubs know
    transformers: Any = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    stages = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(seed)
        if kind == "upernet":
            backbone = transformers.ConvNextConfig(depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], **stages)
            config = transformers.UperNetConfig(
                backbone_config=backbone, num_labels=150, hidden_size=16, auxiliary_channels=8,
                auxiliary_in_channels=24,
            )  # fmt: skip
            network = transformers.UperNetForSemanticSegmentation(config)
        else:
            backbone = transformers.SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=4, **stages)
            config = transformers.Mask2FormerConfig(
                backbone_config=backbone, num_labels=150, num_queries=20, encoder_layers=1, decoder_layers=2,
                feature_size=32, mask_feature_size=32, hidden_dim=32, num_attention_heads=2,
                encoder_feedforward_dim=32, dim_feedforward=32,
            )  # fmt: skip
            network = transformers.Mask2FormerForUniversalSegmentation(config)
        _fill(network, seed)
        network.save_pretrained(folder)


def _hed(path: Path, seed: int) -> None:
    from controlnet_aux.hed import ControlNetHED_Apache2

    network = ControlNetHED_Apache2()
    _fill(network, seed)
    blocks = [network.block1, network.block2, network.block3, network.block4, network.block5]
    _scale(network, [block.projection for block in blocks], lambda pixels: pixels, 2.0)
    # the published file is in half precision
    _save({name: value.half() for name, value in network.state_dict().items()}, path)


def _midas(path: Path, seed: int) -> None:
    from controlnet_aux.midas.midas.dpt_depth import DPTDepthModel

    network = DPTDepthModel(path=None, backbone="vitb_rn50_384", non_negative=True).eval()
    _fill(network, seed)
    network.scratch.output_conv[4].bias.data.fill_(1.0)
    _scale(network, [network.scratch.output_conv[4]], lambda pixels: pixels / 127.5 - 1, 300.0)
    _save(network.state_dict(), path)


def _body(path: Path, seed: int) -> None:
    from controlnet_aux.open_pose.model import bodypose_model

    network = bodypose_model()
    _fill(network, seed)
    _scale(network, [network.model6_1.Mconv7_stage6_L1], lambda pixels: pixels / 256 - 0.5, 0.6)
    _scale(network, [network.model6_2.Mconv7_stage6_L2], lambda pixels: pixels / 256 - 0.5, 0.3)
    _save(_without_first_part(network.state_dict()), path, legacy=True)


def _hand(path: Path, seed: int) -> None:
    from controlnet_aux.open_pose.model import handpose_model

    network = handpose_model()
    _fill(network, seed)
    _scale(network, [network.model6.Mconv7_stage6], lambda pixels: pixels / 256 - 0.5, 0.2)
    _save(_without_first_part(network.state_dict()), path, legacy=True)


def _face(path: Path, seed: int) -> None:
    from controlnet_aux.open_pose.face import FaceNet

    network = FaceNet()
    _fill(network, seed)
    _scale(network, [network.Mconv7_stage6], lambda pixels: pixels / 256 - 0.5, 0.2)
    _save(network.state_dict(), path)


def _mlsd(path: Path, seed: int) -> None:
    import torch
    from controlnet_aux.mlsd.models.mbv2_mlsd_large import MobileV2_MLSD_Large

    network = MobileV2_MLSD_Large().eval()
    _fill(network, seed)

    def four_channels(pixels: Any) -> Any:
        return torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1) / 127.5 - 1

    _scale(network, [network.block23.conv3], four_channels, 4.0)
    _save(network.state_dict(), path)


def _lineart(path: Path, seed: int) -> None:
    from controlnet_aux.lineart import Generator

    network = Generator(3, 1, 3)
    _fill(network, seed)
    _scale(network, [network.model4[1]], lambda pixels: pixels / 255, 2.0)
    _save(network.state_dict(), path)


def _normal_bae(path: Path, seed: int) -> None:
    from controlnet_aux.normalbae.nets.NNET import NNET

    network = NNET(types.SimpleNamespace(architecture="BN", sampling_ratio=0.4, importance_ratio=0.7)).eval()
    _fill(network, seed)
    # as a trainer on several GPUs left it
    _save({"model": {f"module.{name}": value for name, value in network.state_dict().items()}}, path)


_WRITERS: dict[str, Callable[[Path, int], None]] = {
    "ControlNetHED.pth": _hed,
    "dpt_hybrid-midas-501f0c75.pt": _midas,
    "body_pose_model.pth": _body,
    "hand_pose_model.pth": _hand,
    "facenet.pth": _face,
    "mlsd_large_512_fp32.pth": _mlsd,
    "sk_model.pth": _lineart,
    "sk_model2.pth": lambda path, seed: _lineart(path, seed + 1),
    "scannet.pt": _normal_bae,
}
FILENAMES = tuple(_WRITERS)
"""Every file that `write_weights` can write."""


def _fill(network: Any, seed: int) -> None:
    """Weights that keep the size of a signal (He et al., 2015), small biases, batch norms as they are."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.ndim > 1:
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
            elif name.endswith("bias"):
                value.normal_(0, 0.05, generator=generator)


def _scale(network: Any, lasts: list[Any], prepare: Callable[[Any], Any], spread: float) -> None:
    """Scale last layers so that their values for a photograph have this standard deviation around zero."""
    import torch

    pixels = torch.from_numpy(photo(128, 128)).permute(2, 0, 1)[None].float()
    for layer in lasts:
        seen: list[Any] = []
        handle = layer.register_forward_hook(lambda _layer, _given, made, seen=seen: seen.append(made))
        with torch.inference_mode():
            network(prepare(pixels))
        handle.remove()
        factor = spread / float(seen[0].std())
        layer.weight.data *= factor
        layer.bias.data = (layer.bias.data - seen[0].mean(dim=(0, 2, 3)).clone()) * factor


def _without_first_part(state: dict[str, Any]) -> dict[str, Any]:
    return {name.partition(".")[2]: value for name, value in state.items()}


def _save(content: dict[str, Any], path: Path, *, legacy: bool = False) -> None:
    import torch

    torch.save(content, path, _use_new_zipfile_serialization=not legacy)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
