"""Hyper-parameters for a run of a given size and length: named, versioned, pure functions.

A recipe is a starting point and does not replace tuning: published rules disagree by factors. The plan
shows what a recipe chose for every run before anything runs.
"""

from flops_fit.hparams import HParams, Schedule, learning_rate
from flops_fit.recipes.published import (
    RECIPES,
    Recipe,
    chinchilla2022,
    constant,
    deepseek2024,
    default,
    default_1,
    porian2024,
    scaled_beta2,
    steplaw2025,
    timescale_weight_decay,
)
from flops_fit.recipes.resolve import (
    RecipeLike,
    RecipePowerLaw,
    RecipeTable,
    read_recipe,
    resolve_recipe,
)

__all__ = [
    "RECIPES", "HParams", "Recipe", "RecipeLike", "RecipePowerLaw", "RecipeTable", "Schedule",
    "chinchilla2022", "constant", "deepseek2024", "default", "default_1", "learning_rate", "porian2024",
    "read_recipe", "resolve_recipe", "scaled_beta2", "steplaw2025", "timescale_weight_decay",
]  # fmt: skip
