import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlmill.config.base import validate
from controlmill.errors import ConfigError, WeightsUnusableError
from controlmill.testing.pictures import photo
from controlmill.testing.random_weights import write_segmentation
from tasks.annotators.base import Annotation, Annotator
from tasks.annotators.registry import create
from tasks.annotators.segmentation.annotator import SegmentationOptions

IMAGE = photo(192, 128)


def annotated(annotator: Annotator, image: np.ndarray) -> Annotation:
    (made,) = annotator([image], ["0"])
    assert isinstance(made, Annotation), made
    return made


def reference(folder: Path, kind: str) -> np.ndarray:
    """What transformers' own model and processor say, without resizing."""
    import torch
    import transformers

    if kind == "upernet":
        network: Any = transformers.UperNetForSemanticSegmentation.from_pretrained(folder)
        processor: Any = transformers.SegformerImageProcessor(do_resize=False)
    else:
        network = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(folder)
        processor = transformers.Mask2FormerImageProcessor(do_resize=False)
    with torch.inference_mode():
        output = network.eval()(pixel_values=processor(IMAGE, return_tensors="pt")["pixel_values"])
    return np.asarray(processor.post_process_semantic_segmentation(output, [IMAGE.shape[:2]])[0])


@pytest.mark.parametrize(("kind", "largest_share"), [("upernet", 0.0), ("mask2former", 0.005)])
def test_share_of_pixels_of_another_class_than_transformers_gives(
    tmp_path: Path, kind: str, largest_share: float
) -> None:
    """None with UperNet; with Mask2Former 0.003, because transformers enlarges its masks by way of 384x384."""
    write_segmentation(tmp_path / kind, kind, seed=7)
    annotator = create("segmentation", {"weights": str(tmp_path / kind)})
    annotator.setup()
    made = annotated(annotator, IMAGE)
    assert (made.map != reference(tmp_path / kind, kind)).mean() <= largest_share
    assert made.columns == {"num_classes": len(np.unique(made.map)), "uniform": False}
    assert made.columns["num_classes"] > 2


def test_the_model_is_a_repository_found_like_any_weights(ready: Callable[..., Annotator], tmp_path: Path) -> None:
    made = ready("segmentation")
    assert set(made.recipe()["weights"]) == {
        "openmmlab/upernet-convnext-small/config.json",
        "openmmlab/upernet-convnext-small/model.safetensors",
    }
    with pytest.raises(ConfigError, match="model"):
        validate(SegmentationOptions, {"model": str(tmp_path)})


def test_a_layer_says_that_it_holds_class_ids() -> None:
    metadata = create("segmentation", {}).metadata()
    assert metadata == {
        "polarity": "none", "channels": "1", "channel_order": "L", "content": "class_ids", "classes": "ade20k",
    }  # fmt: skip


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    write_segmentation(tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    config["id2label"] = {str(number): str(number) for number in range(19)}
    config["label2id"] = {str(number): number for number in range(19)}
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsUnusableError, match="upernet with 19 classes, not an upernet or mask2former with ADE"):
        create("segmentation", {"weights": str(tmp_path / "net")}).setup()


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    write_segmentation(tmp_path / "net")
    write_segmentation(tmp_path / "other", "mask2former")
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "net" / "model.safetensors")
    with pytest.raises(WeightsUnusableError, match="does not fit its config.json"):
        create("segmentation", {"weights": str(tmp_path / "net")}).setup()


def test_the_published_network_is_pinned_by_its_commit_and_another_is_named_by_its_revision() -> None:
    files = create("segmentation", {}).needed_weights()
    assert [(file.filename, re.fullmatch("[0-9a-f]{40}", file.revision) is not None) for file in files] == [
        ("config.json", True),
        ("pytorch_model.bin", True),
    ]
    assert len({file.revision for file in files}) == 1
    assert len(files[1].sha256 or "") == 64
    own = {"model": "me/upernet", "revision": "v2"}
    config, other = create("segmentation", own).needed_weights()
    assert config.revision == "v2"
    assert (other.filename, other.revision, other.sha256) == ("model.safetensors", "v2", None)
