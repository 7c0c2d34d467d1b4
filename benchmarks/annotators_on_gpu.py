"""Images per second of every annotator and of BLIP on a GPU, batch size against batch size.

    python benchmarks/annotators_on_gpu.py [--batch-sizes 1 4 16 32] [--seconds 1] [--only hed midas] [--out FILE]

One annotator in this process, without Ray, called as an actor calls it: RGB images 512x512 in the CPU's memory to
finished maps there, tensors, network and post-processing included, decoding and PNG not. All networks have random
weights and their real size. The share of the network is the GPU's time inside of it over the whole; OpenPose has
several networks, and is told without. A last line makes the GPU's memory run out on purpose and counts the maps.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from measured_run import heading

from controlmill.config import CaptionOptions
from controlmill.testing.pictures import Pixels, photo
from controlmill.testing.random_weights import FILENAMES, write_weights
from tasks.annotators.base import Annotation
from tasks.annotators.registry import create
from tasks.captioners.base import CaptionModel
from tasks.captioners.blip import Blip

SIZE = 512
ANNOTATORS = ("hed", "midas", "normal_bae", "openpose", "openpose_full", "mlsd", "lineart", "segmentation")
MEMORY_SHARE, NUM_CROWDED = 0.05, 512
"""Of the GPU's memory, and images at once, that do not fit into it."""


@dataclass(frozen=True)
class Rate:
    """How fast one annotator is with one batch size."""

    images_per_s: float
    network_share: float | None
    peak_bytes: int


def write_segmentation(folder: Path) -> None:
    """An UperNet with the ConvNeXt-S that openmmlab/upernet-convnext-small has."""
    import transformers

    stages: dict[str, Any] = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
    backbone = transformers.ConvNextConfig(depths=[3, 3, 27, 3], hidden_sizes=[96, 192, 384, 768], **stages)
    config = transformers.UperNetConfig(
        backbone_config=backbone, num_labels=150, hidden_size=512, auxiliary_in_channels=384
    )
    transformers.UperNetForSemanticSegmentation(config).save_pretrained(folder)


def write_blip(folder: Path) -> None:
    """BLIP of the size of Salesforce/blip-image-captioning-base."""
    import transformers

    config = transformers.BlipConfig(
        text_config={"vocab_size": 30_524, "num_attention_heads": 12}, vision_config={"image_size": 384}
    )
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of"]
    words += [f"word{number}" for number in range(30_522 - len(words))]
    # where the configuration has the end of a caption
    words[102] = "[SEP]"
    words[3] = "word102"
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")


def measure(call: Callable[[], object], num_images: int, seconds: float, network: Any = None) -> Rate:
    """Call again and again for so long, after two calls of warm-up."""
    for _ in range(2):
        call()
    inside: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
    handles = [] if network is None else _watch(network, inside)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    started_s, num_calls = time.perf_counter(), 0
    while num_calls < 3 or time.perf_counter() - started_s < seconds:
        call()
        num_calls += 1
    torch.cuda.synchronize()
    spent_s = time.perf_counter() - started_s
    for handle in handles:
        handle.remove()
    share = sum(before.elapsed_time(after) for before, after in inside) / 1000 / spent_s if inside else None
    return Rate(num_images * num_calls / spent_s, share, torch.cuda.max_memory_allocated())


def _watch(network: Any, inside: list[tuple[torch.cuda.Event, torch.cuda.Event]]) -> list[Any]:
    started: list[torch.cuda.Event] = []

    def before(*_: Any) -> None:
        started.append(torch.cuda.Event(enable_timing=True))
        started[-1].record()

    def after(*_: Any) -> None:
        ended = torch.cuda.Event(enable_timing=True)
        ended.record()
        inside.append((started.pop(), ended))

    return [network.register_forward_pre_hook(before), network.register_forward_hook(after)]


def annotator_rates(name: str, options: dict[str, Any], batch_sizes: Sequence[int], seconds: float) -> list[Rate]:
    """One annotator."""
    rates = []
    for batch_size in batch_sizes:
        annotator: Any = create(name, {**options, "batch_size": batch_size})
        annotator.setup("cuda")
        images, keys = photos(batch_size), [str(number) for number in range(batch_size)]
        assert all(isinstance(one, Annotation) for one in annotator(images, keys)), f"{name} failed"
        network = annotator.network if isinstance(annotator.network, torch.nn.Module) else None
        rates.append(measure(lambda a=annotator, i=images, k=keys: a(i, k), batch_size, seconds, network))
        torch.cuda.empty_cache()
    return rates


def blip_rates(folder: Path, batch_sizes: Sequence[int], seconds: float) -> list[Rate]:
    """BLIP with its default beams; random weights never end a caption before its longest length."""
    blip = Blip(CaptionOptions(captioner="blip", model=str(folder)), CaptionModel("random", str(folder), "0" * 64))
    blip.setup("cuda")
    rates = []
    for batch_size in batch_sizes:
        images, keys = photos(batch_size), [str(number) for number in range(batch_size)]
        rates.append(measure(lambda i=images, k=keys: blip.caption(i, k), batch_size, seconds, None))
        torch.cuda.empty_cache()
    return rates


def photos(number: int) -> list[Pixels]:
    """Four pictures, again and again."""
    made = [photo(SIZE, SIZE, seed=index) for index in range(min(number, 4))]
    return [made[index % len(made)] for index in range(number)]


def crowded() -> str:
    """A batch that does not fit into what is left of the memory: it is halved until it does."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(MEMORY_SHARE)
    hed = create("hed", {"batch_size": NUM_CROWDED})
    hed.setup("cuda")
    made = hed(photos(NUM_CROWDED), [str(number) for number in range(NUM_CROWDED)])
    torch.cuda.set_per_process_memory_fraction(1.0)
    num_maps = sum(isinstance(one, Annotation) for one in made)
    limit = MEMORY_SHARE * torch.cuda.get_device_properties(0).total_memory / 2**30
    return (
        f"Out of memory on purpose: hed with a batch of {NUM_CROWDED} in {limit:.1f} GiB gave {num_maps} maps of "
        f"{NUM_CROWDED}: the batch is halved until it fits."
    )


def report(rates: dict[str, list[Rate]], batch_sizes: Sequence[int], last: str) -> list[str]:
    """Markdown lines."""
    name = torch.cuda.get_device_properties(0).name
    lines = [
        f"{name}, torch {torch.__version__}; {SIZE}x{SIZE}, float32 with TF32 convolutions, deterministic cuDNN.",
        "Images per second; in brackets the GPU's time in the network over the whole, and the peak memory in GiB.",
        "",
        "| annotator | " + " | ".join(f"batch {size}" for size in batch_sizes) + " |",
        "| --- |" + " --- |" * len(batch_sizes),
    ]
    for annotator, found in rates.items():
        cells = []
        for rate in found:
            share = "" if rate.network_share is None else f"{rate.network_share:.0%}, "
            cells.append(f"{rate.images_per_s:.0f} ({share}{rate.peak_bytes / 2**30:.1f})")
        lines.append(f"| {annotator} | " + " | ".join(cells) + " |")
    return [*lines, "", last]


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--seconds", type=float, default=1.0, help="of every measurement")
    parser.add_argument("--only", nargs="+", default=[*ANNOTATORS, "blip"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: nothing is measured")
        return
    sizes, rates = arguments.batch_sizes, {}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["CONTROLMILL_WEIGHTS"] = str(folder)
        write_weights(folder, *FILENAMES)
        write_segmentation(folder / "segmentation")
        for name in arguments.only:
            if name == "blip":
                write_blip(folder / "blip")
                rates[name] = blip_rates(folder / "blip", sizes, arguments.seconds)
            else:
                options = {"weights": str(folder / "segmentation")} if name == "segmentation" else {}
                rates[name] = annotator_rates(name, options, sizes, arguments.seconds)
            print(name, rates[name], flush=True)
        last = crowded()
    text = "\n".join(report(rates, sizes, last)) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text("\n".join(heading("Annotators on a GPU")) + "\n" + text)


if __name__ == "__main__":
    main()
