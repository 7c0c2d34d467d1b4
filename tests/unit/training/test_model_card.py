"""The card of a run, as the Hugging Face hub reads it."""

from dataclasses import replace
from pathlib import Path

from huggingface_hub import ModelCard

from training.model_card import Recipe, model_card, write_model_card

RECIPE = Recipe(
    base="somebody/base",
    base_fingerprint="ab" * 32,
    kind="sd",
    conditions=("canny",),
    dataset="discs",
    layer_fingerprints={"image": "12" * 32, "canny": "34" * 32},
    updates=4_000,
    samples_seen=16_000,
    epochs=1.25,
    options={"learning_rate": 1e-5, "hint_init": "kaiming"},
    num_rows=12_800,
    following="The ControlNet began to follow its condition at update 3,200.",
    libraries={"torch": "2.12.1"},
)


def test_the_hub_reads_its_front_matter(tmp_path: Path) -> None:
    card = ModelCard.load(write_model_card(tmp_path, RECIPE))
    assert card.data.base_model == "somebody/base"
    assert card.data.library_name == "diffusers"
    assert {"controlnet", "diffusers-training", "stable-diffusion", "canny"} <= set(card.data.tags)


def test_it_holds_the_recipe() -> None:
    text = model_card(RECIPE)
    for part in (
        "4,000 updates, 16,000 samples, 1.25 epochs", "12" * 32, "ab" * 32, "`hint_init` | `kaiming`", "12,800 rows",
        "began to follow its condition at update 3,200", 'ControlNetModel.from_pretrained("controlnet")',
        "StableDiffusionControlNetPipeline", "| torch | 2.12.1 |",
    ):  # fmt: skip
        assert part in text


def test_a_folder_of_this_machine_is_no_base_on_the_hub() -> None:
    assert "base_model" not in model_card(replace(RECIPE, base="my-base", kind="sdxl")).split("---")[1]
    assert "StableDiffusionXLControlNetPipeline" in model_card(replace(RECIPE, kind="sdxl"))


def test_several_conditions_are_loaded_as_they_are_kept() -> None:
    several = replace(RECIPE, conditions=("canny", "hed"))
    assert "for name in ['controlnet', 'controlnet_1']" in model_card(several)
    assert "use `controlmill sample`" in model_card(replace(several, options={"several_conditions": "stack"}))
    assert "use `controlmill sample`" in model_card(replace(RECIPE, options={"hint_network": "v1"}))


def test_a_decoder_that_was_trained_too_is_loaded_with_it() -> None:
    text = model_card(replace(RECIPE, decoder_trained=True))
    assert "from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UNet2DConditionModel" in text
    assert 'unet = UNet2DConditionModel.from_pretrained("unet")' in text
    assert 'from_pretrained("somebody/base", controlnet=controlnet, unet=unet)' in text
    assert "unet" not in model_card(RECIPE)
