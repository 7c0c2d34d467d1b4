"""The frozen base computes what diffusers computes, and is found and refused as it should be."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch

from controlmill.errors import WeightsMissingError, WeightsUnusableError
from controlmill.testing.tiny_sd import WORDS, Kind, write_tiny_sd
from training.base_files import find_base
from training.base_model import BaseModel, Residuals
from training.batch import PromptEmbeddings

Tiny = Callable[..., Path]
KINDS: list[Kind] = ["sd1", "sd2", "sdxl"]


@functools.cache
def loaded(folder: Path) -> BaseModel:
    """A whole base, loaded once: for tests that do not change it."""
    return BaseModel.load(str(folder))


def noisy_batch(base: BaseModel, height: int = 8, width: int = 8) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    noisy = torch.randn(2, 4, height, width, generator=generator)
    time_ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2) if base.kind == "sdxl" else None
    return noisy, torch.tensor([10, 900]), time_ids  # type: ignore[return-value]


def pipeline_of(folder: Path, kind: Kind) -> diffusers.DiffusionPipeline:
    name = "StableDiffusionXLPipeline" if kind == "sdxl" else "StableDiffusionPipeline"
    return getattr(diffusers, name).from_pretrained(folder, low_cpu_mem_usage=False)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_embedded_as_the_pipeline_does(kind: Kind, tiny_sd: Tiny) -> None:
    base = loaded(tiny_sd(kind))
    prompts = ["red disc on a blue background", "", "a disc " * 60]
    ours = base.encode_prompts(prompts)
    theirs = pipeline_of(tiny_sd(kind), kind).encode_prompt(
        prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert torch.equal(ours.hidden_BLD, theirs[0])
    assert ours.hidden_BLD.shape == (3, 77, 64 if kind == "sdxl" else 32)
    if kind == "sdxl":
        assert ours.pooled_BD is not None
        assert torch.equal(ours.pooled_BD, theirs[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
def test_the_unet_in_two_halves_predicts_what_it_does_whole(kind: Kind, size: tuple[int, int], tiny_sd: Tiny) -> None:
    base = loaded(tiny_sd(kind))
    noisy, timesteps, time_ids = noisy_batch(base, *size)
    prompts = base.encode_prompts(["red disc", ""])
    added = None if time_ids is None else {"text_embeds": prompts.pooled_BD, "time_ids": time_ids}
    with torch.no_grad():
        whole = base.unet(noisy, timesteps, prompts.hidden_BLD, added_cond_kwargs=added).sample
        skips = base.encode(noisy, timesteps, prompts, time_ids).skips
        residuals = Residuals(tuple(torch.full_like(skip, 0.1) for skip in skips), torch.tensor(0.2))
        controlled = base.unet(
            noisy, timesteps, prompts.hidden_BLD, added_cond_kwargs=added,
            down_block_additional_residuals=residuals.down, mid_block_additional_residual=residuals.middle,
        ).sample  # fmt: skip
    assert torch.equal(base.predict(noisy, timesteps, prompts, time_ids_BT=time_ids), whole)
    assert torch.equal(base.predict(noisy, timesteps, prompts, residuals, time_ids), controlled)
    assert not torch.equal(controlled, whole)


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_noise_and_target_are_those_of_the_noise_schedule(kind: Kind, tiny_sd: Tiny) -> None:
    base = BaseModel.load(str(tiny_sd(kind)), parts=["unet"])
    latents, noise = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 999])
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha = torch.cumprod(1 - betas, 0)[timesteps].view(2, 1, 1, 1)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    torch.testing.assert_close(base.add_noise(latents, noise, timesteps), noisy)
    torch.testing.assert_close(base.target(latents, noise, timesteps), noise if kind == "sd1" else velocity)
    assert base.num_train_timesteps == 1000
    assert base.alphas_cumprod.shape == (1000,)


def test_latents_are_drawn_from_the_posterior_and_scaled(tiny_sd: Tiny) -> None:
    base = BaseModel.load(str(tiny_sd("sd1")), parts=["vae"])
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = base.encode_pixels(pixels)
    noise = torch.ones_like(mean)
    assert mean.shape == std.shape == (1, 4, 8, 8)
    torch.testing.assert_close(base.sample_latents(mean, std, noise), (mean + std) * 0.18215)
    assert base.decode_latents(mean * 0.18215).shape == pixels.shape
    # with cached latents no VAE is loaded, and the factor is still its own
    alone = BaseModel.load(str(tiny_sd("sdxl")), parts=["unet"])
    assert alone.vae is None
    torch.testing.assert_close(alone.sample_latents(mean, std, noise), (mean + std) * 0.13025)


def test_nothing_of_the_base_can_have_a_gradient(tiny_sd: Tiny) -> None:
    base = loaded(tiny_sd("sd1"))
    assert base.text is not None
    for network in (base.unet, base.vae, base.text.encoders):
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert not network.training
    noisy, timesteps, _ = noisy_batch(base)
    prompts = PromptEmbeddings(torch.randn(2, 77, 32, requires_grad=True))
    encoded = base.encode(noisy.requires_grad_(), timesteps, prompts)
    assert not any(tensor.requires_grad for tensor in (*encoded.skips, encoded.middle, encoded.time_BD))


def test_an_unlocked_decoder_gets_gradients_and_the_encoder_never(tiny_sd: Tiny) -> None:
    base = BaseModel.load(str(tiny_sd("sd1")))
    noisy, timesteps, _ = noisy_batch(base)
    opened = base.unlock_decoder()
    base.predict(noisy, timesteps, base.encode_prompts(["", ""])).square().mean().backward()
    for name, parameter in base.unet.named_parameters():
        is_decoder = name.startswith(("up_blocks", "conv_norm_out", "conv_out"))
        assert (parameter.grad is not None) == is_decoder == (name in opened), name


def test_a_fingerprint_is_of_vae_and_text_encoders(tiny_sd: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_sd("sd1"), tmp_path / "copy")
    before = BaseModel.load(str(tiny_sd("sd1"))).fingerprint
    shutil.copy(tiny_sd("sd1", 1) / "unet/diffusion_pytorch_model.safetensors", folder / "unet")
    # whatever is loaded of it, and whichever UNet it has
    assert BaseModel.load(str(folder), parts=["unet"]).fingerprint == find_base(str(folder)).fingerprint() == before
    for name in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        shutil.copy(tiny_sd("sd1", 1) / name, folder / name)
        after = find_base(str(folder)).fingerprint()
        assert after != before
        before = after


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
    ],
)
def test_a_missing_file_is_named(name: str, tiny_sd: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_sd("sd1"), tmp_path / "base")
    (folder / name).unlink()
    with pytest.raises(WeightsMissingError, match=name.replace(".", r"\.")):
        find_base(str(folder))


def test_a_base_on_the_hub_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        WeightsMissingError, match=r"model_index\.json of https://huggingface\.co/nobody/base at v2; put"
    ):
        find_base("nobody/base@v2")
    with pytest.raises(WeightsMissingError, match="there is no folder /nowhere"):
        find_base("/nowhere")


def test_a_repository_is_found_in_the_folder_of_weights(
    tiny_sd: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_sd("sd2"), tmp_path / "somebody" / "base")
    monkeypatch.setenv("CONTROLMILL_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    base = BaseModel.load("somebody/base", parts=["unet", "text"], variant="fp16")
    assert (base.kind, base.prediction_type) == ("sd", "v_prediction")
    assert base.folder == tmp_path / "somebody" / "base"


def test_a_variant_is_taken_where_there_is_one(tiny_sd: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_sd("sd1"), tmp_path / "base")
    unet = folder / "unet/diffusion_pytorch_model.safetensors"
    unet.rename(unet.with_name("diffusion_pytorch_model.fp16.safetensors"))
    files = find_base(str(folder), variant="fp16")
    assert files.variant == {"unet": "fp16", "vae": None, "text_encoder": None}
    assert BaseModel.load(str(folder), variant="fp16").unet is not None
    with pytest.raises(WeightsMissingError, match="diffusion_pytorch_model"):
        find_base(str(folder))


def test_a_file_of_something_else_is_refused(tiny_sd: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_sd("sd1"), tmp_path / "base")
    shutil.copy(folder / "vae/diffusion_pytorch_model.safetensors", folder / "unet")
    with pytest.raises(WeightsUnusableError, match=r"unet/diffusion_pytorch_model\.safetensors does not fit"):
        BaseModel.load(str(folder))
    (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"<html>")
    with pytest.raises(WeightsUnusableError, match=r"cannot load .*unet/diffusion_pytorch_model\.safetensors"):
        BaseModel.load(str(folder))


def test_a_pickle_that_could_run_code_is_refused(tiny_sd: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_sd("sd1"), tmp_path / "base")
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": Path("/")}, folder / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(WeightsUnusableError, match=r"unet/diffusion_pytorch_model\.bin"):
        BaseModel.load(str(folder))


def test_other_pipelines_and_predictions_are_refused(tiny_sd: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_sd("sd1"), tmp_path / "base")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusion3Pipeline"}))
    with pytest.raises(WeightsUnusableError, match="base is a StableDiffusion3Pipeline"):
        find_base(str(folder))
    (folder / "model_index.json").write_text(json.dumps(index))
    scheduler = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler | {"prediction_type": "sample"}))
    with pytest.raises(WeightsUnusableError, match="prediction_type is 'sample'"):
        BaseModel.load(str(folder), parts=["unet"])


def test_half_precision_gives_float32_predictions(tiny_sd: Tiny) -> None:
    base = BaseModel.load(str(tiny_sd("sd1")), dtype=torch.bfloat16)
    whole = loaded(tiny_sd("sd1"))
    noisy, timesteps, _ = noisy_batch(base)
    predicted = base.predict(noisy, timesteps, base.encode_prompts(["red disc", ""]))
    assert predicted.dtype == torch.float32
    expected = whole.predict(noisy, timesteps, whole.encode_prompts(["red disc", ""]))
    torch.testing.assert_close(predicted, expected, atol=0.05, rtol=0.1)


def test_words_are_single_tokens(tiny_sd: Tiny) -> None:
    base = loaded(tiny_sd("sd1"))
    assert base.text is not None
    tokens = base.text.tokenizers[0](WORDS).input_ids
    assert len(tokens) == len(WORDS.split()) + 2


def test_a_tiny_base_is_the_same_for_the_same_seed(tiny_sd: Tiny, tmp_path: Path) -> None:
    again = write_tiny_sd(tmp_path / "again", "sd1")
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [(again / name).read_bytes() for name in files] == [(tiny_sd("sd1") / name).read_bytes() for name in files]
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (again / weights).read_bytes() != (tiny_sd("sd1", 1) / weights).read_bytes()
