"""BLIP's weights in the two forms that exist: LAVIS's names and transformers' names, with the configuration of each.

Nothing but the standard library is used, on anything that has a `shape`: this file also works inside of the LAVIS
environment. The names are those of salesforce-lavis 1.0.2 (`lavis/models/vit.py`, `med.py`) and of transformers'
`BlipForConditionalGeneration`; the text decoder has the same names in both.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

TensorT = TypeVar("TensorT")

_VISION = "visual_encoder."
_TEXT = "text_decoder."
_WORDS = "text_decoder.bert.embeddings.word_embeddings.weight"
_HEAD = "text_decoder.cls.predictions."
# (LAVIS, transformers), each complete between two dots
_BLOCK_PARTS = (("attn.qkv", "self_attn.qkv"), ("attn.proj", "self_attn.projection"), ("norm1", "layer_norm1"),
                ("norm2", "layer_norm2"), ("mlp", "mlp"))  # fmt: skip
_VISION_PARTS = (("patch_embed.proj", "embeddings.patch_embedding"), ("pos_embed", "embeddings.position_embedding"),
                 ("cls_token", "embeddings.class_embedding"), ("norm", "post_layernorm"))  # fmt: skip
# both BLIP sizes have heads of this width
_HEAD_WIDTH = 64


def to_transformers(state: Mapping[str, TensorT]) -> dict[str, TensorT]:
    """Weights of LAVIS's `BlipCaption` under transformers' names; position ids, which are no weights, are left out.

    Raises:
        ValueError: a name is none of `BlipCaption`.
    """
    return {_renamed(name, to_lavis=False): value for name, value in state.items() if not _is_buffer(name)}


def to_lavis(state: Mapping[str, TensorT]) -> dict[str, TensorT]:
    """Weights of transformers' `BlipForConditionalGeneration` under LAVIS's names.

    The output layer shares its weights with the word embeddings, so files of transformers may have them once; LAVIS
    wants them twice.

    Raises:
        ValueError: a name is none of `BlipForConditionalGeneration`.
    """
    renamed = {_renamed(name, to_lavis=True): value for name, value in state.items() if not _is_buffer(name)}
    for shared, original in ((f"{_HEAD}decoder.weight", _WORDS), (f"{_HEAD}decoder.bias", f"{_HEAD}bias")):
        if shared not in renamed and original in renamed:
            renamed[shared] = renamed[original]
    return renamed


def _is_buffer(name: str) -> bool:
    return name.endswith(".position_ids")


def _renamed(name: str, *, to_lavis: bool) -> str:
    if name.startswith(_TEXT):
        return name
    old, new = (1, 0) if to_lavis else (0, 1)
    vision = (_VISION, "vision_model.")
    block = ("blocks", "encoder.layers")
    found = re.fullmatch(rf"{re.escape(vision[old])}(?:{re.escape(block[old])}\.(\d+)\.)?(.+?)(\.weight|\.bias)?", name)
    if found:
        number, part, ending = found[1], found[2], found[3] or ""
        inner = re.fullmatch(r"(mlp)\.(.+)", part) if number is not None else None
        names = {pair[old]: pair[new] for pair in (_BLOCK_PARTS if number is not None else _VISION_PARTS)}
        part = inner[1] if inner else part
        if part in names:
            place = f"{block[new]}.{number}." if number is not None else ""
            return f"{vision[new]}{place}{names[part]}{'.' + inner[2] if inner else ''}{ending}"
    raise ValueError(f"{name!r} is no weight of a BLIP captioner in {'transformers' if to_lavis else 'LAVIS'}'s form")


def read_vocabulary(folder: Path) -> list[str]:
    """The words of the tokenizer, by number, from `vocab.txt` or `tokenizer.json`.

    Raises:
        ValueError: neither is there, or it is not that of a BERT tokenizer.
    """
    listed = folder / "vocab.txt"
    if listed.is_file():
        # not splitlines: the vocabulary may have words that Python takes for line ends
        words = listed.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    elif (folder / "tokenizer.json").is_file():
        numbers = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        words = sorted(numbers, key=lambda word: int(numbers[word]))
    else:
        raise ValueError(
            f"{folder} has neither vocab.txt nor tokenizer.json; the one of bert-base-uncased belongs there"
        )
    missing = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"} - set(words)
    if missing:
        raise ValueError(f"the vocabulary in {folder} lacks {', '.join(sorted(missing))}: it is not that of BERT")
    return words


def config_of_lavis(state: Mapping[str, Any], vocabulary: list[str]) -> dict[str, Any]:
    """The `config.json` of transformers for weights in LAVIS's form, told from their shapes; heads are 64 wide.

    LAVIS's image encoder normalises with an epsilon of 1e-6, its text decoder with 1e-12. The decoder starts from the
    token [DEC], which LAVIS adds behind the vocabulary.
    """
    _, num_places, vision_width = state[f"{_VISION}pos_embed"].shape
    patch_size = state[f"{_VISION}patch_embed.proj.weight"].shape[2]
    vocab_size, text_width = state[_WORDS].shape
    layer = "text_decoder.bert.encoder.layer."
    common = {"hidden_act": "gelu", "attention_dropout": 0.0}
    vision = {
        **common,
        "hidden_size": vision_width,
        "intermediate_size": state[f"{_VISION}blocks.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _num_layers(state, f"{_VISION}blocks."),
        "num_attention_heads": vision_width // _HEAD_WIDTH,
        "image_size": math.isqrt(num_places - 1) * patch_size,
        "patch_size": patch_size,
        "layer_norm_eps": 1e-6,
    }
    text = {
        **common,
        "vocab_size": vocab_size,
        "hidden_size": text_width,
        "encoder_hidden_size": state[f"{layer}0.crossattention.self.key.weight"].shape[1],
        "intermediate_size": state[f"{layer}0.intermediate.dense.weight"].shape[0],
        "num_hidden_layers": _num_layers(state, layer),
        "num_attention_heads": text_width // _HEAD_WIDTH,
        "max_position_embeddings": state["text_decoder.bert.embeddings.position_embeddings.weight"].shape[0],
        "layer_norm_eps": 1e-12,
        "bos_token_id": len(vocabulary),
        "sep_token_id": vocabulary.index("[SEP]"),
        "eos_token_id": vocabulary.index("[SEP]"),
        "pad_token_id": vocabulary.index("[PAD]"),
    }
    return {"model_type": "blip", "vision_config": vision, "text_config": text}


def _num_layers(state: Mapping[str, Any], prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).partition(".")[0]) for name in state if name.startswith(prefix))
