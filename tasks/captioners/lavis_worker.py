"""LAVIS's BLIP in the interpreter of its own environment: encoded images in, plain strings out.

This file is the whole of what runs there. It imports nothing but the standard library and its neighbours `convert` and
`seeds` before an object is made, and nothing of the main environment ever: numpy 1 cannot read what numpy 2 pickles,
and transformers 4.26 knows nothing of 5. Everything that goes in and out is bytes, numbers and strings.
"""

import importlib.metadata
import io
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from tasks.captioners.convert import config_of_lavis, read_vocabulary, to_lavis
from tasks.captioners.seeds import row_seed

Caption = tuple[str | None, str | None]
"""A caption and None, or None and what failed."""

_LIBRARIES = ("salesforce-lavis", "transformers", "torch", "pillow", "numpy")


class LavisWorker:
    """Salesforce LAVIS 1.0.2, `BlipCaption`: Li et al., "LAVIS: A Library for Language-Vision Intelligence", 2022."""

    def __init__(self, folder: str, weights_name: str, options: dict[str, Any], device: str) -> None:
        """Load the network.

        Args:
            folder: the model, with its vocabulary.
            weights_name: the file of weights in it: safetensors, or one that torch reads without running a pickle.
            options: prompt, num_beams, max_new_tokens, min_new_tokens, do_sample, top_p, seed.
            device: as torch writes it.
        """
        from lavis.processors.blip_processors import BlipImageEvalProcessor  # type: ignore[import-not-found]

        self._options = options
        self._device = device
        place = Path(folder)
        config, state = _read(place, weights_name)
        self._network = _network(config, state, read_vocabulary(place), options["prompt"]).to(device)
        settings = place / "preprocessor_config.json"
        normal = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        self._preprocess = BlipImageEvalProcessor(
            config["vision_config"]["image_size"], normal.get("image_mean"), normal.get("image_std")
        )

    def ready(self) -> dict[str, str]:
        """Versions of what decides about captions."""
        return {f"lavis:{name}": importlib.metadata.version(name) for name in _LIBRARIES}

    def process_id(self) -> int:
        """The process that this runs in."""
        return os.getpid()

    def caption(self, images: list[bytes], keys: list[str]) -> list[Caption]:
        """A caption or the failure of each encoded image; `keys` are the rows' keys, for drawn words."""
        import torch
        from PIL import Image

        results: dict[int, Caption] = {}
        pixels: dict[int, Any] = {}
        for index, encoded in enumerate(images):
            try:
                with Image.open(io.BytesIO(encoded)) as picture:
                    pixels[index] = self._preprocess(picture.convert("RGB"))
            except Exception as error:  # one row's edge: a picture may fail in any way  # noqa: BLE001
                results[index] = _failure(error)
        # LAVIS draws all rows from one global generator: drawn captions are made one by one
        step = 1 if self._options["do_sample"] else max(1, len(pixels))
        order = list(pixels)
        with torch.inference_mode():
            for start in range(0, len(order), step):
                batch = order[start : start + step]
                torch.manual_seed(row_seed(self._options["seed"], keys[batch[0]]))
                results.update(zip(batch, self._caption([pixels[index] for index in batch]), strict=True))
        return [results[index] for index in range(len(images))]

    def _caption(self, pixels: list[Any]) -> list[Caption]:
        """Captions of preprocessed images; those of a batch that fails are tried in halves."""
        import torch

        options = self._options
        # LAVIS counts the prompt, with the token that it starts from; the network has counted it already
        prompt_length = self._network.prompt_length
        try:
            texts = self._network.generate(
                {"image": torch.stack(pixels).to(self._device)},
                use_nucleus_sampling=options["do_sample"],
                num_beams=options["num_beams"],
                max_length=prompt_length + options["max_new_tokens"],
                min_length=prompt_length + options["min_new_tokens"],
                top_p=options["top_p"],
            )
        except Exception as error:  # one row's edge, and too little memory for the batch
            told = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if isinstance(error, RuntimeError) and "CUDA error" in str(error):
                # no later call can use the GPU; Ray starts this process again and sends its batches again
                sys.stderr.write(f"lavis: {told}\n")
                sys.stderr.flush()
                os._exit(1)
            if len(pixels) == 1 and type(error).__name__ == "OutOfMemoryError":
                raise MemoryError(f"lavis: one image alone does not fit into memory: {told}") from error
            if len(pixels) == 1:
                return [_failure(error)]
            torch.cuda.empty_cache()
        else:
            return [(text.strip(), None) for text in texts]
        half = len(pixels) // 2
        return self._caption(pixels[:half]) + self._caption(pixels[half:])


def _failure(error: Exception) -> Caption:
    return None, f"{type(error).__name__}: {' '.join(str(error).split())}"


def _read(folder: Path, weights_name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Configuration in transformers' form and weights in LAVIS's, from either form of file."""
    import torch

    path = folder / weights_name
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        content: dict[str, Any] = load_file(str(path))
    else:
        content = torch.load(str(path), map_location="cpu", weights_only=True)
    if path.suffix != ".pth":
        return json.loads((folder / "config.json").read_text(encoding="utf-8")), to_lavis(content)
    # LAVIS saves {"model": weights, ...}, other tools the weights alone
    state = content.get("model", content)
    return config_of_lavis(state, read_vocabulary(folder)), state


def _network(config: dict[str, Any], state: dict[str, Any], vocabulary: list[str], prompt: str) -> Any:
    from lavis.models.blip_models.blip_caption import BlipCaption  # type: ignore[import-not-found]
    from lavis.models.med import BertConfig, XBertLMHeadDecoder  # type: ignore[import-not-found]

    # LAVIS asks the hub for bert-base-uncased; the model's folder has it. No class statement: sent by value, its body
    # would not find the names of this module.
    def own_tokenizer(_kind: type) -> Any:
        return _tokenizer(vocabulary)

    kind: Any = type("Caption", (BlipCaption,), {"init_tokenizer": classmethod(own_tokenizer)})
    vision, text = config["vision_config"], config["text_config"]
    decoder = XBertLMHeadDecoder(
        config=BertConfig(
            vocab_size=text["vocab_size"],
            hidden_size=text["hidden_size"],
            num_hidden_layers=text["num_hidden_layers"],
            num_attention_heads=text["num_attention_heads"],
            intermediate_size=text["intermediate_size"],
            max_position_embeddings=text["max_position_embeddings"],
            layer_norm_eps=text["layer_norm_eps"],
            pad_token_id=text["pad_token_id"],
            hidden_act=text["hidden_act"],
            encoder_width=vision["hidden_size"],
            add_cross_attention=True,
            is_decoder=True,
            add_type_embeddings=False,
        )
    )
    network = kind(_vision(vision), decoder, prompt=prompt)
    found = network.load_state_dict(state, strict=False)
    missing = [name for name in found.missing_keys if not name.endswith("position_ids")]
    if missing:
        raise ValueError(f"the weights lack {', '.join(missing[:3])}")
    return network.eval()


def _vision(config: dict[str, Any]) -> Any:
    from lavis.models.vit import VisionTransformerEncoder  # type: ignore[import-not-found]
    from torch import nn

    return VisionTransformerEncoder(
        img_size=config["image_size"],
        patch_size=config["patch_size"],
        embed_dim=config["hidden_size"],
        depth=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        mlp_ratio=config["intermediate_size"] / config["hidden_size"],
        norm_layer=partial(nn.LayerNorm, eps=config["layer_norm_eps"]),
    )


def _tokenizer(vocabulary: list[str]) -> Any:
    """As `BlipBase.init_tokenizer` makes it, from words that are here."""
    from transformers import BertTokenizer

    with tempfile.TemporaryDirectory(prefix="controlmill-") as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        tokenizer = BertTokenizer(vocab_file=str(path))
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    tokenizer.enc_token_id = tokenizer.additional_special_tokens_ids[0]
    return tokenizer
