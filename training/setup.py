"""A run put together: data, base, ControlNets, engine, and the checkpoint that it goes on from."""

import importlib
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from controlmill.errors import ConfigError
from controlmill.heap import keep_freed_memory
from storage.filesystem import redact
from training.base_files import find_base
from training.base_model import BaseModel
from training.checkpoints import Checkpoints, Commit
from training.controlnet import create
from training.decoder import DecoderTraining
from training.deepspeed_config import deepspeed_config, with_overrides
from training.ema import MovingAverage
from training.engine import Engine
from training.objective import LossByTimestep, Objective
from training.optimizer import make_optimizer
from training.place import Place, frozen_dtype
from training.preflight import preflight, refuse_if_wrong
from training.preflight_rows import Finding
from training.reader.reader import ShardReader
from training.run import Run
from training.saving import Trained, fetched, needs_universal, restore, restore_decoder, start_point
from training.step import Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controlmill.config import TrainConfig
    from training.base_files import Part
    from training.callbacks.base import Callback
    from training.controlnet import ControlNets


_COMPILED = frozenset({"ResnetBlock2D", "BasicTransformerBlock"})
"""Diffusers' blocks, which make up nearly all of the time."""
_MAX_TRANSLATIONS = 64


@dataclass
class Assembled:
    """Everything that the loop works with."""

    trained: Trained
    step: Step
    bins: LossByTimestep
    checkpoints: Checkpoints


def open_reader(config: "TrainConfig", place: Place, num_probe_shards: int | None = None) -> ShardReader:
    """The rows of this rank; the probe's are of the first `num_probe_shards` shards."""
    base = find_base(
        config.pretrained_model_name_or_path, parts=("vae", "text"), revision=config.revision, variant=config.variant
    )
    return ShardReader(
        config,
        batch_size=config.train_batch_size,
        rank=place.rank,
        world_size=place.world_size,
        seed=config.seed,
        base_fingerprint=base.fingerprint(),
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        num_probe_rows=config.num_probe_rows,
        num_probe_shards=num_probe_shards,
        pin_memory=place.device.type == "cuda",
    )


def load_base(config: "TrainConfig", place: Place, reader: ShardReader) -> BaseModel:
    """The frozen model, without the parts whose work the dataset brings."""
    parts: list[Part] = ["unet"]
    parts += [] if reader.cached.latents else ["vae"]
    parts += [] if reader.cached.prompts else ["text"]
    return BaseModel.load(
        config.pretrained_model_name_or_path,
        device=place.device,
        dtype=frozen_dtype(config.mixed_precision),
        # as `encode` computes its layers: the same numbers with and without them
        encoder_dtype=torch.float32,
        parts=parts,
        revision=config.revision,
        variant=config.variant,
    )


def _engine(config: "TrainConfig", place: Place, controlnets: "ControlNets", *, universal: bool) -> Engine:
    on_gpu = place.device.type == "cuda"
    made = deepspeed_config(config, use_gpu=on_gpu)
    if config.deepspeed:
        made, changes = with_overrides(made, config.deepspeed)
        for change in changes if place.is_first else ():
            place.tell({"event": "deepspeed_override", "change": change})
    if universal:
        made["checkpoint"] = {**made.get("checkpoint", {}), "load_universal": True}
    trained = [parameter for parameter in controlnets.parameters() if parameter.requires_grad]
    if config.offload_optimizer == "nvme":
        check_nvme_offload(place)
    optimizer: Any = (
        _offloaded_optimizer(config, trained, place)
        if made.get("zero_force_ds_cpu_optimizer")
        else make_optimizer(config, trained, config.peak_learning_rate)
    )
    return Engine(controlnets, optimizer, made, device=place.device)


def _offloaded_optimizer(config: "TrainConfig", parameters: "Sequence[torch.nn.Parameter]", place: Place) -> Any:
    """DeepSpeed's AdamW for moments that live in the CPU's memory; compiled at its first use on a machine."""
    from training.engine import import_deepspeed

    import_deepspeed(place.device)
    adam: Any = importlib.import_module("deepspeed.ops.adam")
    return adam.DeepSpeedCPUAdam(
        parameters,
        lr=config.peak_learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.adam_weight_decay,
    )


def check_nvme_offload(place: Place) -> None:
    """Raise `ConfigError` where DeepSpeed cannot compile its access to disks, which it does at the first use."""
    from training.engine import import_deepspeed

    import_deepspeed(place.device)
    builders: Any = importlib.import_module("deepspeed.ops.op_builder")
    if not builders.AsyncIOBuilder().is_compatible(verbose=False):
        raise ConfigError(
            "offload_optimizer nvme: DeepSpeed compiles its access to disks, which needs a C++ compiler and libaio on "
            "every machine: install libaio-dev (Debian) or libaio-devel (Fedora), or use offload_optimizer cpu"
        )


@contextmanager
def assembled(config: "TrainConfig", place: Place, callbacks: "list[Callback]") -> Iterator[Assembled]:
    """Put a run together, from its start or from a checkpoint; closed behind the `with` block.

    Raises:
        ControlmillError: options, data, weights or checkpoint are not usable.
    """
    if place.device.type == "cpu":
        keep_freed_memory()
    if config.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    checkpoints = Checkpoints(config.output_dir)
    start = start_point(config, place, checkpoints)
    with ExitStack() as stack:
        began = start[1].state.get("reader", {}) if start is not None else {}
        reader = stack.enter_context(open_reader(config, place, began.get("num_probe_shards")))
        base = load_base(config, place, reader)
        controlnets = create(base, config, config.seed, num_conditions=len(config.condition)).to(place.device)
        if config.gradient_checkpointing:
            controlnets.enable_gradient_checkpointing()
        if start is None and config.preflight and place.is_first:
            _look_first(config, place, base, controlnets, reader)
        # behind preflight: blocks that torch.compile sees first while FLOPs are counted stay as they are for good
        if config.torch_compile:
            compile_blocks(base.unet, controlnets, sizes_vary=config.enable_bucket)
        universal = start is not None and needs_universal(start[1], place)
        engine = _engine(config, place, controlnets, universal=universal)
        stack.callback(engine.close)
        run = Run(config, place, base=base, controlnets=controlnets, engine=engine, reader=reader)
        stack.callback(run.end)
        trained = Trained(run, callbacks)
        if config.use_ema:
            trained.average = MovingAverage(engine.local_tensors, config.ema_decay)
        objective = Objective(config, alphas_cumprod_T=base.alphas_cumprod, prediction_type=base.prediction_type)
        if start is not None:
            _go_on(trained, start, checkpoints)
        run.begin()
        if start is not None:
            run.log("resumed", update=run.update, checkpoint=redact(start[0]))
        causes = ", ".join(f"{num} {cause}" for cause, num in reader.left_out.items())
        left_out = {"left_out": causes} if causes else {}
        run.log("data", rows=reader.num_rows, cached=reader.cached.sentence, updates=run.num_updates, **left_out)
        step = Step(base, objective, seed=config.seed, device=place.device, autocast=run.autocast, rounds=reader.rounds)
        yield Assembled(trained, step, LossByTimestep(objective.num_timesteps), checkpoints)


def _go_on(trained: Trained, start: tuple[str, Commit], checkpoints: Checkpoints) -> None:
    """Take over a checkpoint; later ones, which are of another continuation, are set aside."""
    run, place = trained.run, trained.run.place
    with fetched(start, checkpoints, place) as folder:
        restore(trained, start[1], folder)
        if run.base_is_unlocked:
            trained.decoder = DecoderTraining(run.base, run.config)
            restore_decoder(trained.decoder, folder)
    updates, aside = checkpoints.set_aside(run.update) if place.is_first else ([], "")
    if updates:
        run.log("set_aside", checkpoints=", ".join(map(str, updates)), folder=redact(aside))


def _look_first(
    config: "TrainConfig", place: Place, base: BaseModel, controlnets: "ControlNets", reader: ShardReader
) -> None:
    findings = preflight(config, place, base, controlnets, reader)
    for finding in findings:
        place.tell({"event": "preflight", finding.name.replace(" ", "_"): finding.said})
    refuse_if_wrong(findings)


def findings_here(config: "TrainConfig") -> list[Finding]:
    """What `controlmill preflight` finds on this machine, with the first of its GPUs where it has one."""
    on_gpu = torch.cuda.is_available() if config.use_gpu is None else config.use_gpu
    place = Place(0, 1, torch.device("cuda" if on_gpu else "cpu"))
    with open_reader(config, place) as reader:
        base = load_base(config, place, reader)
        controlnets = create(base, config, config.seed, num_conditions=len(config.condition)).to(place.device)
        return preflight(config, place, base, controlnets, reader)


def compile_blocks(*networks: torch.nn.Module, sizes_vary: bool) -> None:
    """Let torch.compile translate the blocks of networks at their first use; alike ones share the translation.

    Blocks differ in channels, sizes and whether gradients flow: an SD UNet has more kinds of them than the eight that
    torch translates of one class before it leaves the others as they are. Told nothing, it takes the second kind for a
    sign that sizes vary, and all that follow are translated for any size: 26 of 28 at the shape of SD 1.5 (torch 2.12).
    Where sizes do not vary, 33 for those that there are need no arithmetic of unknown sizes.
    """
    dynamic = None if sizes_vary else False
    settings: Any = importlib.import_module("torch._dynamo.config")
    settings.recompile_limit = max(settings.recompile_limit, _MAX_TRANSLATIONS)
    for network in networks:
        for block in network.modules():
            if type(block).__name__ in _COMPILED:
                block.compile(dynamic=dynamic)


def is_finite(*values: float) -> bool:
    """Whether all are numbers."""
    return all(math.isfinite(value) for value in values)
