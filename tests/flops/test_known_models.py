"""Well-known models cost what their papers and libraries say.

Published multiply-adds of a forward pass (torchvision's tables of weights call them GFLOPS), so that two
FLOPs are counted for each. The models are those of the transformers package at their full size, on
torch's meta device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from flops_fit.flops import trace_flops

hf = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")

Known = tuple[Callable[[], Any], Callable[[], dict[str, Any]], float]


def image(side: int = 224) -> dict[str, Any]:
    return {"pixel_values": torch.empty(1, 3, side, side)}


def text(length: int) -> dict[str, Any]:
    return {"input_ids": torch.zeros(1, length, dtype=torch.long)}


def of(kind: str, head: str = "ForImageClassification", **options: Any) -> Callable[[], Any]:
    """A model of its default configuration but for some options."""
    if head.startswith("ForImage"):
        options["num_labels"] = 1000
    return lambda: getattr(hf, kind + head)(getattr(hf, f"{kind}Config")(**options))


KNOWN: dict[str, Known] = {
    "ResNet-18": (
        of("ResNet", layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2] * 4),
        image,
        1.814e9,
    ),
    "ResNet-50": (of("ResNet"), image, 4.089e9),
    "ResNet-152": (of("ResNet", depths=[3, 8, 36, 3]), image, 11.514e9),
    "MobileNetV2": (of("MobileNetV2"), image, 0.301e9),
    "EfficientNet-B0": (
        of("EfficientNet", width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280),
        image,
        0.386e9,
    ),
    "ConvNeXt-T": (of("ConvNext"), image, 4.456e9),
    "ViT-B/16": (of("ViT"), image, 17.564e9),
    "ViT-L/16": (
        of(
            "ViT",
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
        ),
        image,
        61.555e9,
    ),
    "Swin-T": (of("Swin"), image, 4.491e9),
    # nanoGPT's table of sizes, in a context of 1024.
    "GPT-2": (of("GPT2", "LMHeadModel"), lambda: text(1024), 291_648_307_200 / 2),
    # Jiao et al. 2020 (arXiv:1909.10351), table 1: 22.5 and 11.3 billion FLOPs for 128 tokens.
    "BERT-base": (of("Bert", "Model"), lambda: text(128), 22.5e9 / 2),
    "DistilBERT": (of("DistilBert", "Model"), lambda: text(128), 11.3e9 / 2),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_well_known_model_costs_what_was_published(name: str) -> None:
    """To the digits published, but for BERT, whose authors add some element-wise work."""
    make, batch, published = KNOWN[name]
    with torch.device("meta"):
        model, inputs = make().eval(), batch()
    traced = trace_flops(lambda: model(**inputs)[0].sum(), model)
    within = 0.015 if "BERT" in name else 0.002
    assert traced.forward / 2 == pytest.approx(published, rel=within)
