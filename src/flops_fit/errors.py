"""Everything flops-fit raises on purpose.

::

    FlopsFitError
    ├── InputError (ValueError)         an argument cannot be used as it came
    │   ├── BudgetError                 compute budgets
    │   ├── ModelError                  the model class, its size parameter, its sizes
    │   ├── DataError                   the data set, its batches, its units
    │   ├── LossError                   the loss function and what it returned
    │   ├── PlanError                   no sweep can be planned from valid inputs
    │   └── TableError                  a table of runs that cannot be read
    ├── InputTypeError (TypeError)      an argument of a wrong type
    ├── OutputError (OSError)           the output directory
    ├── FitError (ValueError)           these runs determine no law
    ├── SweepError (RuntimeError)       the sweep was stopped
    └── MissingExtraError (ImportError) an optional dependency is not installed

Each message says what was expected, what came, and what to do next.
A poor fit is not an error: it is a status and a diagnostic in the result.
"""

__all__ = [
    "BudgetError", "DataError", "FitError", "FlopsFitError", "InputError", "InputTypeError",
    "LossError", "MissingExtraError", "ModelError", "OutputError", "PlanError", "SweepError",
    "TableError",
]  # fmt: skip


class FlopsFitError(Exception):
    """Base of every error that flops-fit raises on purpose."""


class InputError(FlopsFitError, ValueError):
    """An argument has the right type and an unusable value."""


class BudgetError(InputError):
    """The compute budgets are not distinct positive finite numbers."""


class ModelError(InputError):
    """The model cannot be built, sized or counted."""


class DataError(InputError):
    """The data set is empty, unformatted or too small for what was asked."""


class LossError(InputError):
    """The loss function did not return a differentiable scalar."""


class PlanError(InputError):
    """The inputs are valid one by one, and no sweep can be made of them."""


class TableError(InputError):
    """A table of runs lacks a column or holds values that cannot be used."""


class InputTypeError(FlopsFitError, TypeError):
    """An argument has a type that flops-fit cannot use."""


class OutputError(FlopsFitError, OSError):
    """The output directory cannot be written, or belongs to something else."""


class FitError(FlopsFitError, ValueError):
    """The runs do not determine a law; the message says which runs to add."""


class SweepError(FlopsFitError, RuntimeError):
    """The sweep was stopped before it could end."""


class MissingExtraError(FlopsFitError, ImportError):
    """An optional dependency is missing; the message gives the install command."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f'Install it with: pip install "flops-fit[{extra}]"'
        )
