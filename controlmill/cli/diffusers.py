"""The options of diffusers' examples/controlnet/train_controlnet.py beside those of `controlmill train`.

Source: its `parse_args`, as of diffusers 0.40. Names and defaults are the same but for what stands here.
"""

from typing import Any

from controlmill.cli.peer import Missing, Peer, anything, is_false, one_of

_NONE = one_of("None", "none", "null", "")
_SAMPLE = (
    "pictures are made with `controlmill sample --controlnet RUN/controlnet`, also of a checkpoint while it trains"
)
_HUB = "upload RUN/controlnet with `hf upload`, once you have looked at its pictures"
_CONVERT = (
    "make a dataset of layers first: `controlmill build --url-list …` or `--image-folder …`, then give its folder"
)

MISSING: dict[str, Missing] = {
    "tokenizer_name": Missing(_NONE, "the base's own tokenizer is used; leave the option out"),
    "cache_dir": Missing(_NONE, "weights are kept where HF_HOME says; leave the option out and set the variable"),
    "push_to_hub": Missing(is_false("push_to_hub"), _HUB, is_flag=True),
    "hub_token": Missing(_NONE, _HUB),
    "hub_model_id": Missing(_NONE, _HUB),
    "enable_xformers_memory_efficient_attention": Missing(
        anything, "torch's own memory-efficient attention is always used", is_flag=True
    ),
    "set_grads_to_none": Missing(anything, "gradients are always set to None", is_flag=True),
    "dataset_name": Missing(_NONE, _CONVERT),
    "dataset_config_name": Missing(_NONE, _CONVERT),
    "validation_prompt": Missing(_NONE, _SAMPLE),
    "validation_image": Missing(_NONE, _SAMPLE),
    "num_validation_images": Missing(anything, _SAMPLE),
    "validation_steps": Missing(anything, _SAMPLE),
}
"""Options without a counterpart."""

PEER = Peer(MISSING, renamed={"conditioning_image_column": "condition"})

DEFAULTS: dict[str, Any] = {
    "pretrained_model_name_or_path": "required",
    "controlnet_model_name_or_path": None,
    "revision": None,
    "variant": None,
    "tokenizer_name": None,
    "output_dir": "controlnet-model",
    "cache_dir": None,
    "seed": None,
    "resolution": 512,
    "train_batch_size": 4,
    "num_train_epochs": 1,
    "max_train_steps": None,
    "checkpointing_steps": 500,
    "checkpoints_total_limit": None,
    "resume_from_checkpoint": None,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "learning_rate": 5e-6,
    "scale_lr": False,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 500,
    "lr_num_cycles": 1,
    "lr_power": 1.0,
    "use_8bit_adam": False,
    "dataloader_num_workers": 0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_weight_decay": 1e-2,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "push_to_hub": False,
    "hub_token": None,
    "hub_model_id": None,
    "logging_dir": "logs",
    "allow_tf32": False,
    "report_to": "tensorboard",
    "mixed_precision": None,
    "enable_xformers_memory_efficient_attention": False,
    "set_grads_to_none": False,
    "dataset_name": None,
    "dataset_config_name": None,
    "train_data_dir": None,
    "image_column": "image",
    "conditioning_image_column": "conditioning_image",
    "caption_column": "text",
    "max_train_samples": None,
    "proportion_empty_prompts": 0,
    "validation_prompt": None,
    "validation_image": None,
    "num_validation_images": 4,
    "validation_steps": 100,
    "tracker_project_name": "train_controlnet",
}
"""Every option of the script with its default, in its order."""

NOTES: dict[str, str] = {
    "seed": "another default: 0, so that every run can be repeated",
    "dataloader_num_workers": "threads in each worker, not processes; another default: 4",
    "mixed_precision": "the default is `no`, whatever accelerate was configured to",
    "train_data_dir": "a dataset of layers, also as the first word; not an imagefolder",
    "conditioning_image_column": "here `condition`: the layer of the hints; the old name is understood",
    "caption_column": "another default: the layer caption where there is one, else the column image.caption",
    "proportion_empty_prompts": "another default: 0.5, as in the ControlNet paper",
}
"""What else differs in options that both have."""
