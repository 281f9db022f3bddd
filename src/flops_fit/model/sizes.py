"""Sizes of a model that a trainer of your own builds: how many parameters each has."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from flops_fit.errors import InputTypeError, ModelError, is_number
from flops_fit.fingerprint import digest
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.records import ParamCount


@dataclass(frozen=True)
class KnownModel:
    """What is known of a model at one size; ``flops=`` of a plan may be a function of it."""

    size: Any
    params: int
    flops_per_unit: float | None = None

    def __post_init__(self) -> None:
        if not is_number(self.params) or self.params < 1:
            raise ModelError(
                f"params: expected a positive number for size {self.size!r}; got {self.params!r}."
            )
        object.__setattr__(self, "params", round(self.params))

    @property
    def counted(self) -> ParamCount:
        """N under each convention; which parameters are embeddings is not known."""
        return ParamCount(*4 * [self.params])


Params = Mapping[Any, float] | Callable[..., float] | Iterable[Mapping[str, Any]] | str | Path


class ModelSizes(ModelSpec):
    """In place of a model class where a command trains: the parameters N of each size. Needs no torch.

    >>> sizes = ModelSizes({64: 1_200_000, 128: 4_700_000}, units_per_sample=1024)
    >>> sizes.nearest(4e6)[0]
    128

    ``params`` is a dict from size to N, a function of the size, or rows of ``params`` with the arguments of
    each size, and perhaps its ``flops_per_unit``: dicts, or the path of a CSV. A sample has
    ``units_per_sample`` units, of a text the length of its context, and ``unit`` names them.
    """

    def __init__(
        self, params: Params, *, units_per_sample: float = 1, unit: str = "tokens"
    ) -> None:
        super().__init__(params if callable(params) else ModelSizes, None)
        self.size_param, self.units_per_sample, self.unit = "size", units_per_sample, unit
        self._formula = params if callable(params) else None
        rows = [] if callable(params) else _rows(params)
        self._rows = {repr(model.size): model for model in rows}

    @property
    def reference(self) -> str:
        """What records call the model."""
        return "ModelSizes"

    @property
    def flops_method(self) -> str | Callable[[Any], float]:
        """What a unit costs, as all rows say, or else 6N."""
        known = self._rows and all(is_number(m.flops_per_unit) for m in self._rows.values())
        return attrgetter("flops_per_unit") if known else "6nd"

    def build_meta(self, size: Size) -> KnownModel:
        """What is known of the model at a size."""
        if self._formula is not None:
            n: Any = self._formula(**size) if isinstance(size, Mapping) else self._formula(size)
            return KnownModel(size, n)
        if (known := self._rows.get(repr(size))) is None:
            raise ModelError(f"expected one of {[m.size for m in self._rows.values()]}")
        return known

    def count(self, size: Size) -> ParamCount | None:
        """N at this size, ``None`` where it is not known."""
        try:
            return self.build_meta(size).counted
        except Exception as error:  # the user's function may raise anything
            self.refusals[repr(size)] = f"{type(error).__name__}: {error}"
            return None

    def nearest(self, params: float) -> tuple[Any, ParamCount] | None:
        """The size of about ``params`` parameters: of a function any whole number, else of the rows."""
        if self._formula is not None:
            return super().nearest(params)
        best = min(self._rows.values(), key=lambda m: abs(math.log(m.params / params)))
        return None if best.params < params / 3 else (best.size, best.counted)

    def fingerprint(self, size: Size) -> str:
        """N at this size, so that other rows may change."""
        return digest([f"{self.reference} {self.require(size).total}"])


def _rows(params: Any) -> list[KnownModel]:
    """What a dict, rows or a CSV say of each size."""
    if isinstance(params, Mapping):
        params = [{"size": size, "params": n} for size, n in params.items()]
    elif isinstance(params, str | Path):
        try:
            with Path(params).open(newline="", encoding="utf-8-sig") as file:
                params = [{k: _value(v) for k, v in row.items()} for row in csv.DictReader(file)]
        except (OSError, UnicodeDecodeError) as error:
            raise ModelError(f"params: expected a CSV of sizes; {error}.") from error
    given = [dict(row) for row in params if isinstance(row, Mapping)]
    if not given or any("params" not in row or len(row) < 2 for row in given):
        raise InputTypeError(
            "params: expected a dict from size to N, a function of the size, or rows with params and the "
            f"arguments of each size, such as {{'dim': 64, 'params': 1.2e6}}; got {params!r:.200}."
        )
    known = [(row.pop("params"), row.pop("flops_per_unit", None), row) for row in given]
    return [KnownModel(r["size"] if list(r) == ["size"] else r, n, flops) for n, flops, r in known]


def _value(text: str) -> Any:
    """A cell as a number, or else a text."""
    with suppress(ValueError, TypeError, RecursionError):
        return json.loads(text)
    return text
