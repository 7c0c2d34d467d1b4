"""A BLIP captioner of a few hundred thousand random weights, in the files that transformers keeps one in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

_TEXT = """
[PAD] [UNK] [CLS] [SEP] [MASK] a picture of the on with and disc circle ball square ring dot red green blue yellow
magenta cyan white black grey background wall table floor paper small large round bright dark one two three left right
top bottom middle drawn painted ##s ##ed ##ish
"""
WORDS = _TEXT.split()
_VISION_WIDTH, _TEXT_WIDTH, _PATCH, _SIDE, _NUM_LAYERS, _NUM_POSITIONS = 128, 64, 16, 64, 2, 64

Tensors = dict[str, NDArray[np.float32]]


def write_small_blip(folder: Path, seed: int = 0) -> Path:
    """Write `config.json`, `preprocessor_config.json`, `vocab.txt` and `model.safetensors`; returns the folder.

    Its captions are words in no order, but they depend on the image, and the likeliest word is likelier than the next
    by far more than rounding.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_weights(seed), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config()))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    clip = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    settings = {"image_processor_type": "BlipImageProcessor", "size": {"height": _SIDE, "width": _SIDE}, **clip}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def _config() -> dict[str, Any]:
    common = {"hidden_act": "gelu", "num_hidden_layers": _NUM_LAYERS, "attention_dropout": 0.0}
    vision = {
        "hidden_size": _VISION_WIDTH,
        "intermediate_size": 2 * _VISION_WIDTH,
        "num_attention_heads": _VISION_WIDTH // 64,
        "image_size": _SIDE,
        "patch_size": _PATCH,
        "layer_norm_eps": 1e-6,
    }
    text = {
        "vocab_size": len(WORDS) + 2,
        "hidden_size": _TEXT_WIDTH,
        "encoder_hidden_size": _VISION_WIDTH,
        "intermediate_size": 2 * _TEXT_WIDTH,
        "num_attention_heads": _TEXT_WIDTH // 64,
        "max_position_embeddings": _NUM_POSITIONS,
        "layer_norm_eps": 1e-12,
        "bos_token_id": len(WORDS),
        "sep_token_id": WORDS.index("[SEP]"),
        "eos_token_id": WORDS.index("[SEP]"),
        "pad_token_id": WORDS.index("[PAD]"),
    }
    return {"model_type": "blip", "vision_config": {**common, **vision}, "text_config": {**common, **text}}


def _weights(seed: int) -> Tensors:
    """Weights under transformers' names; the output layer's are those of the words, as in its files."""
    rng = np.random.default_rng([seed, 3])
    width, vocabulary = _VISION_WIDTH, len(WORDS) + 2
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.embeddings.class_embedding": (1, 1, width),
        "vision_model.embeddings.position_embedding": (1, (_SIDE // _PATCH) ** 2 + 1, width),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, _PATCH, _PATCH),
        "vision_model.embeddings.patch_embedding.bias": (width,),
        **_norm("vision_model.post_layernorm", width),
        "text_decoder.bert.embeddings.word_embeddings.weight": (vocabulary, _TEXT_WIDTH),
        "text_decoder.bert.embeddings.position_embeddings.weight": (_NUM_POSITIONS, _TEXT_WIDTH),
        **_norm("text_decoder.bert.embeddings.LayerNorm", _TEXT_WIDTH),
        "text_decoder.cls.predictions.bias": (vocabulary,),
        **_linear("text_decoder.cls.predictions.transform.dense", _TEXT_WIDTH, _TEXT_WIDTH),
        **_norm("text_decoder.cls.predictions.transform.LayerNorm", _TEXT_WIDTH),
    }
    for number in range(_NUM_LAYERS):
        shapes |= _vision_layer(f"vision_model.encoder.layers.{number}.", width)
        shapes |= _text_layer(f"text_decoder.bert.encoder.layer.{number}.", _TEXT_WIDTH, width)
    weights = {name: _draw(rng, name, shape) for name, shape in shapes.items()}
    # a trained network never says these: [PAD] [UNK] [CLS], [MASK], and [DEC] [ENC] behind the words
    weights["text_decoder.cls.predictions.bias"][[0, 1, 2, 4, -2, -1]] = -30.0
    return weights


def _draw(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    is_gain = name.endswith("weight") and len(shape) == 1
    spread = 0.1 if len(shape) == 1 else 1.5 / np.sqrt(np.prod(shape[1:]))
    spread = 0.3 if "embedding" in name and len(shape) != 4 else spread
    return (rng.normal(0.0, spread, shape) + is_gain).astype(np.float32)


def _linear(name: str, num_in: int, num_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (num_out, num_in), f"{name}.bias": (num_out,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _vision_layer(prefix: str, width: int) -> dict[str, tuple[int, ...]]:
    return {
        **_linear(f"{prefix}self_attn.qkv", width, 3 * width),
        **_linear(f"{prefix}self_attn.projection", width, width),
        **_norm(f"{prefix}layer_norm1", width),
        **_norm(f"{prefix}layer_norm2", width),
        **_linear(f"{prefix}mlp.fc1", width, 2 * width),
        **_linear(f"{prefix}mlp.fc2", 2 * width, width),
    }


def _text_layer(prefix: str, width: int, vision_width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for attention, source_width in (("attention", width), ("crossattention", vision_width)):
        shapes |= _linear(f"{prefix}{attention}.self.query", width, width)
        shapes |= _linear(f"{prefix}{attention}.self.key", source_width, width)
        shapes |= _linear(f"{prefix}{attention}.self.value", source_width, width)
        shapes |= _linear(f"{prefix}{attention}.output.dense", width, width)
        shapes |= _norm(f"{prefix}{attention}.output.LayerNorm", width)
    return {
        **shapes,
        **_linear(f"{prefix}intermediate.dense", width, 2 * width),
        **_linear(f"{prefix}output.dense", 2 * width, width),
        **_norm(f"{prefix}output.LayerNorm", width),
    }
