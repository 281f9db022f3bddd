"""Values that no run could have are refused where they are made."""

from __future__ import annotations

import pytest

from flops_fit.errors import InputError
from flops_fit.recipes import resolve_recipe
from tests.recipes._sizes import params


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rate": 1}, "unknown"),
        ({"lr": -1.0}, "positive lr"),
        ({"lr": float("nan")}, "positive lr"),
        ({"warmup": 1.5}, "warmup"),
        ({"schedule": "cosin"}, r"schedule: expected one of \['cosine', 'wsd', 'constant'\]"),
        ({"cooldown": 0}, "cooldown as a share"),
        ({"cooldown": 1.1}, "cooldown as a share"),
        ({"final": -0.1}, "final as a share of the peak"),
        ({"schedule": "wsd", "warmup": 0.5, "cooldown": 0.6}, "leave each other room"),
        ({"beta2": 1.0}, "beta2 from 0 to below 1"),
        ({"weight_decay": -0.1}, "weight_decay of 0 or more"),
    ],
)
def test_unusable_values_are_told(values: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        resolve_recipe(values)(params(1000), 1e6, "tokens")
