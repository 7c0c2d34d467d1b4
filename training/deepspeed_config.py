"""The DeepSpeed configuration: a pure function of the options.

Weights stay float32 under every precision, and the arithmetic is torch's autocast, as in diffusers: the same numbers
under every ZeRO stage. Source of the keys: https://www.deepspeed.ai/docs/config-json/, DeepSpeed 0.19.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controlmill.errors import ConfigError

if TYPE_CHECKING:
    from controlmill.config import TrainConfig

_BUCKET_ELEMENTS = 50_000_000
"""Gradients that are exchanged at once; DeepSpeed's own default is ten times that, and takes 2 GB of memory."""
_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
_OURS = frozenset({"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"})
_INSTEAD = {
    "optimizer": "learning_rate, adam_beta1 and the like",
    "scheduler": "lr_scheduler and lr_warmup_steps",
}
"""Sections that the options stand for."""


def deepspeed_config(config: "TrainConfig", *, use_gpu: bool) -> dict[str, Any]:
    """What `deepspeed.initialize` is given for these options.

    Args:
        config: the options; their file `deepspeed` is not looked at.
        use_gpu: whether workers train on GPUs.
    """
    made: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.train_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "train_batch_size": config.rows_per_update,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": _zero(config, use_gpu=use_gpu),
        "zero_allow_untested_optimizer": config.use_8bit_adam,
        # Adam of DeepSpeed is compiled where it runs; only the offloaded one is worth it
        "zero_force_ds_cpu_optimizer": config.offload_optimizer != "none" and use_gpu,
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }
    if config.mixed_precision != "no":
        made["torch_autocast"] = {
            "enabled": True,
            "dtype": _DTYPES[config.mixed_precision],
            # gradients are summed in float32
            "lower_precision_safe_modules": [],
        }
    return made


def _zero(config: "TrainConfig", *, use_gpu: bool) -> dict[str, Any]:
    if config.zero_stage == 0:
        return {"stage": 0}
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        "reduce_bucket_size": _BUCKET_ELEMENTS,
        "allgather_bucket_size": _BUCKET_ELEMENTS,
        "contiguous_gradients": True,
        "overlap_comm": use_gpu and config.zero_stage > 1,
    }
    if config.zero_stage == 3:
        zero |= {"stage3_prefetch_bucket_size": _BUCKET_ELEMENTS, "stage3_max_live_parameters": 1_000_000_000}
    if config.offload_optimizer == "cpu":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": use_gpu}
    elif config.offload_optimizer == "nvme":
        zero["offload_optimizer"] = {"device": "nvme", "nvme_path": config.offload_folder, "pin_memory": use_gpu}
    return zero


def with_overrides(made: Mapping[str, Any], path: str) -> tuple[dict[str, Any], list[str]]:
    """Lay a DeepSpeed file over what was made of the options.

    Returns:
        The whole configuration, and one line for each value that the file changes or adds; "auto" changes nothing,
        wherever it stands, and sections without anything else are left out.

    Raises:
        ConfigError: the file cannot be read, or sets what the options set.
    """
    given = _without_auto(_read(path))
    told = [name for name in sorted(_OURS & given.keys()) if given[name] != made[name]]
    if told:
        raise ConfigError(
            f"{path}: {', '.join(told)}: set by train_batch_size, gradient_accumulation_steps and num_workers; "
            'leave it out or write "auto"'
        )
    for name in ("fp16", "bf16"):
        if _section(given, name, path).get("enabled"):
            raise ConfigError(f'{path}: {name}.enabled: set by mixed_precision; leave it out or write "auto"')
    changes = []
    for name in sorted(_INSTEAD.keys() & given.keys()):
        params = _section(_section(given, name, path), "params", path)
        if params:
            raise ConfigError(f'{path}: {name}: set by {_INSTEAD[name]}; leave out {", ".join(params)} or write "auto"')
        del given[name]
        changes.append(f"{name}: left out, set by {_INSTEAD[name]}")
    merged, more = _merge(made, given, "")
    return merged, [*changes, *more]


def _without_auto(given: Mapping[str, Any]) -> dict[str, Any]:
    """Without the values that are left to whoever reads the file, and the sections that have no others."""
    kept: dict[str, Any] = {}
    for name, value in given.items():
        inner = _without_auto(value) if isinstance(value, Mapping) else value
        if inner != "auto" and (inner != {} or value == {}):
            kept[name] = inner
    return kept


def _section(given: Mapping[str, Any], name: str, path: str) -> Mapping[str, Any]:
    section = given.get(name, {})
    if not isinstance(section, Mapping):
        raise ConfigError(f"{path}: {name}: a section in braces is expected (got {json.dumps(section)})")
    return section


def _read(path: str) -> dict[str, Any]:
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"deepspeed: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"deepspeed: {path} is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"deepspeed: {path} is not a JSON object")
    return given


def _merge(made: Mapping[str, Any], given: Mapping[str, Any], prefix: str) -> tuple[dict[str, Any], list[str]]:
    merged = dict(made)
    changes: list[str] = []
    for name, value in given.items():
        before = made.get(name)
        if value == before:
            continue
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[name], inner = _merge(before, value, f"{prefix}{name}.")
            changes += inner
        else:
            merged[name] = value
            changes.append(f"{prefix}{name}: {json.dumps(before)} -> {json.dumps(value)}")
    return merged, changes
