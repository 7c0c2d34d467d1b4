"""Names and configuration of BLIP's weights, from LAVIS's form to transformers' and back."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from controlmill.testing.small_blip import WORDS
from tasks.captioners.convert import config_of_lavis, read_vocabulary, to_lavis, to_transformers

_TIED = {"text_decoder.cls.predictions.decoder.weight", "text_decoder.cls.predictions.decoder.bias"}


@pytest.mark.parametrize(
    ("lavis", "transformers"),
    [
        ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
        ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
        ("visual_encoder.patch_embed.proj.weight", "vision_model.embeddings.patch_embedding.weight"),
        ("visual_encoder.norm.bias", "vision_model.post_layernorm.bias"),
        ("visual_encoder.blocks.11.attn.qkv.weight", "vision_model.encoder.layers.11.self_attn.qkv.weight"),
        ("visual_encoder.blocks.0.attn.proj.bias", "vision_model.encoder.layers.0.self_attn.projection.bias"),
        ("visual_encoder.blocks.3.norm2.weight", "vision_model.encoder.layers.3.layer_norm2.weight"),
        ("visual_encoder.blocks.3.mlp.fc1.weight", "vision_model.encoder.layers.3.mlp.fc1.weight"),
        ("text_decoder.bert.encoder.layer.0.crossattention.self.key.weight",) * 2,
    ],
)
def test_names(lavis: str, transformers: str) -> None:
    assert to_transformers({lavis: 1}) == {transformers: 1}
    assert to_lavis({transformers: 1}) == {lavis: 1}


def test_there_and_back_is_the_same(blip_folder: Path) -> None:
    state = load_file(blip_folder / "model.safetensors")
    lavis = to_lavis(state)
    assert lavis.keys() - to_transformers(lavis).keys() >= {"visual_encoder.pos_embed"}
    back = to_transformers(lavis)
    assert back.keys() - state.keys() == _TIED
    assert all(np.array_equal(back[name], value) for name, value in state.items())


def test_what_is_stored_once_is_there_twice_for_lavis() -> None:
    words = "text_decoder.bert.embeddings.word_embeddings.weight"
    state = to_lavis({words: "words", "text_decoder.cls.predictions.bias": "bias"})
    assert state["text_decoder.cls.predictions.decoder.weight"] == "words"
    assert state["text_decoder.cls.predictions.decoder.bias"] == "bias"


def test_position_ids_are_no_weights() -> None:
    assert to_transformers({"text_decoder.bert.embeddings.position_ids": 1}) == {}


@pytest.mark.parametrize("name", ["visual_encoder.blocks.0.attn.other.weight", "vision_model.norm.bias", "temp"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no weight of a BLIP captioner"):
        to_transformers({name: 1})


def test_the_configuration_is_told_from_the_shapes(blip_folder: Path) -> None:
    state = to_lavis(load_file(blip_folder / "model.safetensors"))
    assert config_of_lavis(state, WORDS) == json.loads((blip_folder / "config.json").read_text())


def test_the_vocabulary_of_either_file(blip_folder: Path, tmp_path: Path) -> None:
    assert read_vocabulary(blip_folder) == WORDS
    vocabulary = {word: number for number, word in reversed(list(enumerate(WORDS)))}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordPiece", "vocab": vocabulary}}))
    assert read_vocabulary(tmp_path) == WORDS


def test_a_word_that_looks_like_a_line_end_is_a_word(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\x85", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    assert read_vocabulary(tmp_path) == words


@pytest.mark.parametrize(("text", "message"), [(None, "neither vocab.txt"), ("hello\nworld\n", "lacks")])
def test_what_is_no_vocabulary_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "vocab.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_vocabulary(tmp_path)
