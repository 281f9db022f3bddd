"""The examples in docstrings of recipes, tuning and adaptive sweeps run as they read."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = [
    "hparams",
    "recipes.published",
    "recipes.resolve",
    "tune.optimum_fit",
    "adaptive.propose",
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(f"flops_fit.{name}"))
    assert results.attempted > 0
    assert results.failed == 0
