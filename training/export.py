"""A trained ControlNet for others: a folder in diffusers' layout, or a single file in that of the official code."""

from pathlib import Path
from typing import Literal

from controlmill.errors import WeightsMissingError, WeightsUnusableError
from storage.weights.tensors import read_tensors
from training.base_files import read_json
from training.layouts import to_cldm
from training.net_files import CONTROLNET_FOLDER, PICKLED_NAME, WEIGHTS_NAME, load_net, nets_in, save_net
from training.tensor_file import write_tensors

Layout = Literal["diffusers", "cldm"]


def export_model(run: Path, layout: Layout, output: Path) -> list[Path]:
    """Write the ControlNet of a run, or of a folder in diffusers' layout, bit for bit in a layout.

    Several ControlNets of one run go to `output` and, with _1, _2 at the end of its name, beside it.

    Args:
        run: a run's folder, or a ControlNet's.
        layout: "diffusers" (a folder) or "cldm" (one .safetensors with "control_model." before each name).
        output: the folder or file.

    Returns:
        What was written.

    Raises:
        WeightsMissingError: there is no ControlNet.
        WeightsUnusableError: it has no form in this layout, or `output` is no name for it.
    """
    folders = _folders(run)
    if layout == "cldm" and output.suffix != ".safetensors":
        raise WeightsUnusableError(f"output: {output}: layout cldm is one file; give a name that ends in .safetensors")
    written = []
    for number, folder in enumerate(folders):
        if layout == "diffusers":
            net = load_net(folder)
            target = nets_in(output, number)
            save_net(net, net.state_dict(), target)
        else:
            target = output if number == 0 else output.with_stem(f"{output.stem}_{number}")
            _write_cldm(folder, target)
        written.append(target)
    return written


def _folders(run: Path) -> list[Path]:
    first = run / CONTROLNET_FOLDER if (run / CONTROLNET_FOLDER).is_dir() else run
    if not (first / "config.json").is_file() or not any(
        (first / name).is_file() for name in (WEIGHTS_NAME, PICKLED_NAME)
    ):
        raise WeightsMissingError(
            f"RUN: {run} has no finished ControlNet: neither {CONTROLNET_FOLDER}/config.json with {WEIGHTS_NAME} nor "
            "these files themselves"
        )
    folders = [first]
    while first != run and (more := nets_in(first, len(folders))).is_dir():
        folders.append(more)
    return folders


def _write_cldm(folder: Path, target: Path) -> None:
    if read_json(folder / "config.json").get("hint_network") == "v1":
        raise WeightsUnusableError(
            f"layout: {folder} has the hint network of the article's text, and the official code has no names for it; "
            "export it with --layout diffusers"
        )
    path = folder / WEIGHTS_NAME if (folder / WEIGHTS_NAME).is_file() else folder / PICKLED_NAME
    write_tensors(to_cldm(read_tensors(path)), target)
