"""What of a built model is compared before its FLOPs are taken from other sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from flops_fit.model.structure import model_structure


@dataclass
class Config:
    steps: int = 2
    kind: str = "gelu-12"
    nested: Any = None


class Layer(nn.Module):
    def __init__(self, config: Config, window: int | None) -> None:
        super().__init__()
        self.config, self.window, self.dilations = config, window, [1, 2, 8]
        self.activation, self.mask = torch.relu, torch.ones(3)
        self.linear = nn.Linear(2, 3)


def test_numbers_words_and_choices_of_modules_are_in_the_structure() -> None:
    config = Config(nested={"rate": 0.5})
    config.nested["again"] = config  # which is looked at once
    found = model_structure(nn.Sequential(Layer(config, 4), Layer(config, None), Layer(config, 6)))
    assert found.spans["*.window"] == (4, 6)
    assert found.spans["*.dilations#"] == (3, 3)
    assert found.spans["*.dilations[]"] == (1, 8)
    assert found.spans["*.config.steps"] == (2, 2)
    assert found.spans["*.config.nested.rate"] == (0.5, 0.5)
    assert found.spans["*.linear.out_features"] == (3, 3)
    assert found.counts["*.window=None"] == 1
    assert found.counts["*.config.kind=gelu-*"] == 1
    assert found.counts["*: Layer"] == 3
    assert not any("mask" in name or "activation" in name for name in found.names)
