import json
from pathlib import Path
from typing import Any

import pytest

from controlmill.config import TrainConfig
from controlmill.errors import ConfigError
from training.deepspeed_config import deepspeed_config, with_overrides

BATCH = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 3, "train_batch_size": 24}
COMMON = {
    **BATCH,
    "zero_allow_untested_optimizer": False,
    "zero_force_ds_cpu_optimizer": False,
    "steps_per_print": None,
    "wall_clock_breakdown": False,
}
BUCKETS = {"reduce_bucket_size": 50_000_000, "allgather_bucket_size": 50_000_000, "contiguous_gradients": True}
PREFETCH = {"stage3_prefetch_bucket_size": 50_000_000, "stage3_max_live_parameters": 1_000_000_000}
GOLDEN: list[tuple[dict[str, Any], bool, dict[str, Any]]] = [
    ({}, False, {"gradient_clipping": 1.0, "zero_optimization": {"stage": 0}}),
    (
        {"zero_stage": 1},
        False,
        {"gradient_clipping": 1.0, "zero_optimization": {"stage": 1, **BUCKETS, "overlap_comm": False}},
    ),
    (
        {"zero_stage": 2, "max_grad_norm": 0.5, "mixed_precision": "bf16"},
        True,
        {
            "gradient_clipping": 0.5,
            "zero_optimization": {"stage": 2, **BUCKETS, "overlap_comm": True},
            "torch_autocast": {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []},
        },
    ),
    (
        {"zero_stage": 3, "offload_optimizer": "cpu", "mixed_precision": "fp16"},
        True,
        {
            "gradient_clipping": 1.0,
            "zero_optimization": {
                "stage": 3,
                **BUCKETS,
                "overlap_comm": True,
                **PREFETCH,
                "offload_optimizer": {"device": "cpu", "pin_memory": True},
            },
            "zero_force_ds_cpu_optimizer": True,
            "torch_autocast": {"enabled": True, "dtype": "float16", "lower_precision_safe_modules": []},
        },
    ),
    (
        {"zero_stage": 3, "offload_optimizer": "nvme", "offload_folder": "/nvme"},
        False,
        {
            "gradient_clipping": 1.0,
            "zero_optimization": {
                "stage": 3,
                **BUCKETS,
                "overlap_comm": False,
                **PREFETCH,
                "offload_optimizer": {"device": "nvme", "nvme_path": "/nvme", "pin_memory": False},
            },
        },
    ),
]


def config(**options: Any) -> TrainConfig:
    common = {"train_data_dir": "d", "condition": ("canny",), "pretrained_model_name_or_path": "b"}
    return TrainConfig.model_validate({**common, "gradient_accumulation_steps": 3, "num_workers": 2, **options})


@pytest.mark.parametrize(("options", "use_gpu", "expected"), GOLDEN)
def test_the_configuration_is_a_function_of_the_options(
    options: dict[str, Any], use_gpu: Any, expected: dict[str, Any]
) -> None:
    assert deepspeed_config(config(**options), use_gpu=use_gpu) == {**COMMON, **expected}


def test_a_file_is_laid_over_it_and_every_change_is_told(tmp_path: Path) -> None:
    path = tmp_path / "deepspeed.json"
    given = {
        "train_batch_size": "auto",
        "gradient_clipping": 2.0,
        "zero_optimization": {"stage": 2, "overlap_comm": True},
        "comms_logger": {"enabled": True},
    }
    path.write_text(json.dumps(given))
    made = deepspeed_config(config(zero_stage=2), use_gpu=False)
    merged, changes = with_overrides(made, str(path))
    assert changes == [
        "gradient_clipping: 1.0 -> 2.0",
        "zero_optimization.overlap_comm: false -> true",
        'comms_logger: null -> {"enabled": true}',
    ]
    zero = {**made["zero_optimization"], "overlap_comm": True}
    assert merged == {**made, "gradient_clipping": 2.0, "zero_optimization": zero, "comms_logger": {"enabled": True}}


HUGGING_FACE = {
    "fp16": {"enabled": "auto", "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16},
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": "auto", "warmup_num_steps": "auto"}},
    "zero_optimization": {"stage": 2, "overlap_comm": True, "reduce_bucket_size": "auto"},
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": False,
}
"""The example of their documentation for ZeRO 2."""


def test_a_file_of_transformers_is_taken_and_auto_is_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "deepspeed.json"
    path.write_text(json.dumps(HUGGING_FACE))
    merged, changes = with_overrides(deepspeed_config(config(), use_gpu=False), str(path))
    assert "auto" not in json.dumps(merged)
    assert merged == {
        **COMMON,
        "gradient_clipping": 1.0,
        "steps_per_print": 2000,
        "zero_optimization": {"stage": 2, "overlap_comm": True},
        "fp16": {"loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16},
    }
    assert changes[:2] == [
        "optimizer: left out, set by learning_rate, adam_beta1 and the like",
        "scheduler: left out, set by lr_scheduler and lr_warmup_steps",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train_batch_size": 7}', "train_batch_size: set by train_batch_size"),
        ('{"bf16": {"enabled": true}}', "bf16.enabled: set by mixed_precision"),
        ('{"optimizer": {"type": "AdamW", "params": {"lr": 1}}}', "optimizer: set by learning_rate.*leave out lr or"),
        ('{"fp16": true}', "fp16: a section in braces is expected"),
        ("[1]", "not a JSON object"),
        ("{", "is not JSON"),
        (None, "cannot read"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "deepspeed.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        with_overrides(deepspeed_config(config(), use_gpu=False), str(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offload_optimizer": "cpu"}, "needs zero_stage 1, 2 or 3"),
        ({"offload_optimizer": "nvme", "zero_stage": 2}, "needs zero_stage 3"),
        ({"offload_optimizer": "nvme", "zero_stage": 3}, "offload_folder"),
        ({"offload_folder": "/nvme"}, "offload_folder"),
        ({"sd_locked": False, "mixed_precision": "fp16"}, "fp16 scales the loss"),
        ({"sd_locked": False, "unlock_at_step": 3}, "not both"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)
