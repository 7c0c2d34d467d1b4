"""BLIP by transformers: batches, beams or drawn words, in the main environment.

Li, Li, Xiong, Hoi, "BLIP: Bootstrapping Language-Image Pre-training", 2022. Images are squeezed to a square with PIL's
bicubic filter and normalised as CLIP's were: what the network was trained with, and what LAVIS does.

All prompts of a batch are the same, so nothing is padded, and no row sees another: a caption does not depend on its
neighbours but for rounding, which another batch size, device or number of threads can change in the last digit.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tasks.captioners.base import LocalCaptioner
from tasks.captioners.convert import config_of_lavis, read_vocabulary, to_transformers
from tasks.captioners.model import weights_file
from tasks.captioners.seeds import row_seed
from tasks.images.types import Pixels

if TYPE_CHECKING:
    import torch

# B: images of a batch, L: tokens, V: words of the vocabulary


class Blip(LocalCaptioner):
    """`BlipForConditionalGeneration` with PIL's preprocessing."""

    name: ClassVar[str] = "blip"
    version: ClassVar[str] = "1"
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "pillow")

    def setup(self, device: str = "cpu") -> None:
        """Load the network, from safetensors or with `weights_only`; no pickle is run, nothing is downloaded."""
        import torch
        from transformers import BertTokenizer, BlipImageProcessorPil
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        folder = Path(self.model.path)
        vocabulary = read_vocabulary(folder)
        self._device = torch.device(device)
        self._network: Any = _load(folder, vocabulary).eval().to(self._device)
        config = self._network.config
        # given as a file of words, transformers 5 would ignore it
        self._tokenizer: Any = BertTokenizer(vocab={word: number for number, word in enumerate(vocabulary)})
        self._bos_id = config.text_config.bos_token_id
        self._sep_id = config.text_config.sep_token_id
        self._pad_id = config.text_config.pad_token_id
        prompt_ids = self._tokenizer(self.options.prompt).input_ids
        self._prompt_L = torch.tensor([self._bos_id, *prompt_ids[1:-1]], device=self._device)
        preprocessor = folder / "preprocessor_config.json"
        if preprocessor.is_file():
            settings = json.loads(preprocessor.read_text(encoding="utf-8"))
            self._processor: Any = BlipImageProcessorPil.from_dict(settings)
        else:
            side = config.vision_config.image_size
            self._processor = BlipImageProcessorPil(size={"height": side, "width": side})

    def caption(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[str]:
        """Captions of a batch, without the prompt."""
        import torch

        try:
            tokens_BL = self._generate(images, keys)
        except torch.OutOfMemoryError:
            # the base tries the halves of the batch, for which the memory must be free
            torch.cuda.empty_cache()
            raise
        # [DEC] and [ENC] stand behind the vocabulary: words to the network, nothing to the tokenizer
        known = [[token for token in row if token < self._tokenizer.vocab_size] for row in tokens_BL.tolist()]
        prompt, *texts = self._tokenizer.batch_decode([self._prompt_L.tolist()[1:], *known], skip_special_tokens=True)
        # with the prompt, for a caption may begin with the rest of its last word
        return [text.removeprefix(prompt).strip() for text in texts]

    def _generate(self, images: Sequence[Pixels], keys: Sequence[str]) -> "torch.Tensor":
        import torch

        options = self.options
        inputs = self._processor(list(images), return_tensors="pt", input_data_format="channels_last")
        drawn: dict[str, Any] = {"num_beams": options.num_beams}
        if options.do_sample:
            drawn = {"num_beams": 1, "logits_processor": self._drawing(keys)}
        with torch.inference_mode():
            embeddings = self._network.vision_model(pixel_values=inputs["pixel_values"].to(self._device))[0]
            tokens_BL: torch.Tensor = self._network.text_decoder.generate(
                input_ids=self._prompt_L.repeat(len(images), 1),
                attention_mask=torch.ones((len(images), len(self._prompt_L)), device=self._device),
                encoder_hidden_states=embeddings,
                encoder_attention_mask=torch.ones(embeddings.shape[:-1], device=self._device),
                max_new_tokens=options.max_new_tokens,
                min_new_tokens=options.min_new_tokens,
                past_key_values=_shared_image_cache(),
                do_sample=False,
                bos_token_id=self._bos_id,
                eos_token_id=self._sep_id,
                pad_token_id=self._pad_id,
                **drawn,
            )
        return tokens_BL

    def _drawing(self, keys: Sequence[str]) -> Any:
        from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

        warpers = [TemperatureLogitsWarper(self.options.temperature), TopPLogitsWarper(self.options.top_p)]
        return LogitsProcessorList([*warpers, GumbelNoise([row_seed(self.options.seed, key) for key in keys])])


def _shared_image_cache() -> Any:
    """A cache whose part of the image stays where it is: all beams of an image see the same.

    transformers copies it at every word, 40 MB for each beam of the base model: a third of the time on a CPU.
    """
    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    class SharedImageCache(EncoderDecoderCache):
        def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
            """Follow the beams with their words only."""
            self.self_attention_cache.reorder_cache(beam_idx)

    return SharedImageCache(DynamicCache(), DynamicCache())


class GumbelNoise:
    """Noise under which the likeliest word is a word drawn by its probability; every row has a generator of its own.

    transformers draws all rows from one global generator, so that a row's words would depend on its neighbours. Adding
    Gumbel noise to the logits and taking the greatest draws from the same distribution (Gumbel 1954; Maddison, Tarlow,
    Minka, "A* Sampling", 2014).
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        import torch

        # on the CPU: the same words on every device
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """Add noise to logits of shape (B, V); -inf stays what it is."""
        import torch

        del input_ids
        width = scores.shape[-1]
        exponential_BV = torch.stack([torch.empty(width).exponential_(generator=one) for one in self._generators])
        return scores - exponential_BV.log().to(scores.device)


def _load(folder: Path, vocabulary: list[str]) -> Any:
    import torch
    from transformers import BlipConfig, BlipForConditionalGeneration

    file = weights_file(folder)
    # its signature does not tell of the pair that output_loading_info gives
    load: Any = BlipForConditionalGeneration.from_pretrained
    if file.suffix == ".pth":
        content = torch.load(file, map_location="cpu", weights_only=True)
        state = content.get("model", content)
        config = BlipConfig.from_dict(config_of_lavis(state, vocabulary))
        network, report = load(None, config=config, state_dict=to_transformers(state), output_loading_info=True)
    else:
        is_safe = file.suffix == ".safetensors"
        network, report = load(
            folder, local_files_only=True, use_safetensors=is_safe, weights_only=True, output_loading_info=True
        )
    if report["missing_keys"]:
        raise ValueError(f"{file} lacks {', '.join(sorted(report['missing_keys'])[:3])}")
    return network
