"""What the user measures of a model at the end of its run: benchmark scores and the like."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flops_fit.batches import to_device
from flops_fit.errors import InputError, InputTypeError, is_number
from flops_fit.lazy import torch
from flops_fit.table.columns import NUMERIC
from flops_fit.table.headings import rank
from flops_fit.text import error_line, user_line

Measures = Mapping[str, Callable[[Any, Iterator[Any]], Any]]


def check_metrics(metrics: object) -> Measures:
    """``metrics=`` where it is names with functions; names that a table would misread are refused."""
    if not isinstance(metrics, Mapping) or not all(
        isinstance(name, str) and callable(function) for name, function in metrics.items()
    ):
        raise InputTypeError(
            'metrics: expected a dict of functions (model, batches) -> number, such as {"accuracy": '
            f"accuracy}}; got {metrics!r:.200}."
        )
    for name in metrics:
        ranks = {quantity: rank(quantity, name) for quantity in NUMERIC}
        taken = [q for q, r in ranks.items() if r and (q != "loss" or r[0] == 0 or name == q)]
        if taken or not name:
            raise InputError(
                f"metrics: the name {name!r} would be read as the {(taken or ['name'])[0]} of a run. Choose "
                "another, such as 'hellaswag_acc'."
            )
    return dict(metrics)


def measure(
    metrics: Measures, model: Any, batches: Callable[[], Iterator[Any]], device: str
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The value of each metric, and a note for each that failed: a run that is paid for is kept.

    Functions get the model in evaluation mode, without gradients, and the held-out batches on its device.
    """
    values, notes = {}, []
    was_training = model.training
    model.eval()
    for name, function in metrics.items():
        try:
            with torch.no_grad():
                value = function(model, (to_device(batch, device) for batch in batches()))
            value = value.item() if isinstance(value, torch.Tensor) else value
            if not is_number(value):
                raise InputError(f"expected one finite number; got {value!r:.100}")
            values[name] = float(value)
        except Exception as error:  # the user's code may raise anything
            notes.append(f"metric {name}: {error_line(error)}{user_line(error)}")
    model.train(was_training)
    return values, tuple(notes)
