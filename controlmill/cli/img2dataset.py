"""The options of img2dataset 1.47.0 beside ours: the same, another default, or what to do without a counterpart.

Source: the signature of `img2dataset.main.download`, release 1.47.0. The page docs/from-img2dataset.md is generated
from this table.
"""

from typing import Any

from controlmill.cli.peer import Missing, Peer, anything, is_false, one_of

MISSING: dict[str, Missing] = {
    "output_format": Missing(
        one_of("parquet"),
        "controlmill writes Parquet layers only; leave the option out or give parquet",
    ),
    "bbox_col": Missing(
        one_of("None", "none", "null"),
        "controlmill does not blur boxes; keep the column with --save-additional-columns",
    ),
    "enable_wandb": Missing(
        is_false("enable_wandb"),
        "controlmill does not log to Weights & Biases; its totals are in `controlmill inspect DATASET --json`",
        is_flag=True,
    ),
    "wandb_project": Missing(anything, "without effect, as there is no logging to Weights & Biases"),
    "oom_shard_count": Missing(
        one_of("5"),
        "shard names have five digits and take more by themselves; leave the option out",
    ),
    "distributor": Missing(
        one_of("multiprocessing", "ray"),
        "shards are worked on by Ray, on this machine or with --ray-address on a cluster; leave the option out",
    ),
    "subjob_size": Missing(anything, "without effect: shards are handed out one by one"),
    "disable_all_reencoding": Missing(
        is_false("disable_all_reencoding"),
        "controlmill decodes every image; --resize-mode no --skip-reencode keeps the bytes of upright RGB images",
        is_flag=True,
    ),
}
"""Options without a counterpart."""

PEER = Peer(MISSING)

DEFAULTS: dict[str, Any] = {
    "url_list": "required",
    "image_size": 256,
    "output_folder": "images",
    "processes_count": 1,
    "resize_mode": "border",
    "resize_only_if_bigger": False,
    "upscale_interpolation": "lanczos",
    "downscale_interpolation": "area",
    "encode_quality": 95,
    "encode_format": "jpg",
    "skip_reencode": False,
    "output_format": "files",
    "input_format": "txt",
    "url_col": "url",
    "caption_col": None,
    "bbox_col": None,
    "thread_count": 256,
    "number_sample_per_shard": 10_000,
    "extract_exif": True,
    "save_additional_columns": None,
    "timeout": 10,
    "enable_wandb": False,
    "wandb_project": "img2dataset",
    "oom_shard_count": 5,
    "compute_hash": "sha256",
    "verify_hash": None,
    "distributor": "multiprocessing",
    "subjob_size": 1000,
    "retries": 0,
    "disable_all_reencoding": False,
    "min_image_size": 0,
    "max_image_area": float("inf"),
    "max_aspect_ratio": float("inf"),
    "incremental_mode": "incremental",
    "max_shard_retry": 1,
    "user_agent_token": None,
    "disallowed_header_directives": ["noai", "noimageai", "noindex", "noimageindex"],
}
"""Every option of img2dataset 1.47.0 with its default, in its order."""

NOTES: dict[str, str] = {
    "url_list": "or `image_folder`, or `from_img2dataset`",
    "image_size": "another default: Stable Diffusion trains at 512; must be a multiple of `size_multiple` (64)",
    "resize_mode": "another default: `border` would bake white bars into the training images",
    "output_folder": "must be given",
    "processes_count": "shards in parallel; by default one per CPU",
    "thread_count": "downloads in flight in each parallel task; they are not threads here",
    "timeout": "to connect, and between two reads; `total_timeout` bounds the whole URL, which img2dataset does not",
    "retries": "with exponential backoff, after 429, 5xx, timeouts and broken connections only",
    "input_format": "told from the file name unless given",
    "encode_quality": "the same for jpg and webp; for png 6 unless given",
    "skip_reencode": "the bytes are kept only where the image is upright, plain RGB and of the right size",
    "max_shard_retry": "after a lost worker; a shard is never given up silently",
    "incremental_mode": "`extend` adds the new rows of a source that grew",
    "user_agent_token": "beside an honest `controlmill` User-Agent; img2dataset calls itself Firefox",
}
"""What else differs in options that both have."""
