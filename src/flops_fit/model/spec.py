"""A model class or factory with its arguments: build it, count it, name what it is made of."""

from __future__ import annotations

import difflib
import inspect
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flops_fit.errors import InputTypeError, MissingExtraError, ModelError
from flops_fit.fingerprint import digest, fingerprint_any, fingerprint_code, reference
from flops_fit.model.meta import GpuNeededError, build_without_memory
from flops_fit.model.params import count_params
from flops_fit.model.search import SizeSearch
from flops_fit.records import ParamCount

if TYPE_CHECKING:
    from torch import nn


Size = int | float | str | Mapping[str, Any]
_ALLOCATED = 2.5e8  # parameters, 1 GB: the largest model that is allocated only to be counted
_SLOW = 30.0  # seconds of building that are worth a word


@dataclass
class ModelSpec:
    """A model class or factory, the argument that sets its size, and its other arguments."""

    factory: Callable[..., Any]
    size_param: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict, repr=False)
    _counts: dict[str, ParamCount | None] = field(default_factory=dict, repr=False)
    _codes: dict[int, tuple[Any, str]] = field(default_factory=dict, repr=False)
    allocates: str = field(default="", repr=False)
    _search: SizeSearch | None = field(default=None, repr=False)
    _seconds: float = field(default=0.0, repr=False, compare=False)
    _builds: int = field(default=0, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not callable(self.factory):
            raise InputTypeError(
                f"model_cls: expected a class or a factory that returns a torch.nn.Module; "
                f"got {type(self.factory).__name__}."
            )
        if not isinstance(self.kwargs, Mapping):
            raise InputTypeError(
                f"model_kwargs: expected a dict of arguments; got {type(self.kwargs).__name__}."
            )
        self._check_arguments()

    def _check_arguments(self) -> None:
        """Refuse argument names that the factory does not take."""
        try:
            parameters = inspect.signature(self.factory).parameters
        except (TypeError, ValueError):  # builtins without a signature are found out when built
            return
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        wanted = list(self.kwargs) + ([self.size_param] if self.size_param else [])
        for name in wanted:
            if name not in parameters:
                near = difflib.get_close_matches(name, parameters, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                what = "model_size_param" if name == self.size_param else "model_kwargs"
                raise ModelError(
                    f"{what}: {self.reference} takes no argument {name!r}; "
                    f"it takes {list(parameters)}.{hint}"
                )

    @property
    def reference(self) -> str:
        """``module.qualname`` of the class or factory."""
        return reference(self.factory)

    def arguments(self, size: Size) -> dict[str, Any]:
        """All keyword arguments at this size."""
        if isinstance(size, Mapping):
            return {**self.kwargs, **size}
        if self.size_param is None:
            raise ModelError(
                "model_size_param: expected the name of the argument that sets the model's size, "
                "or sizes=[{...}, ...] as dicts of arguments; got neither."
            )
        return {**self.kwargs, self.size_param: size}

    def build(self, size: Size) -> nn.Module:
        """The model itself, with memory; errors of the constructor are passed on."""
        model: nn.Module = self.factory(**self.arguments(size))
        return model

    def build_meta(self, size: Size) -> Any:
        """The model without memory, on the meta device.

        A constructor that cannot run there (it reads the values of its own tensors, say) is built
        on the CPU instead; ``allocates`` then says why.

        Raises
        ------
        ModelError
            The constructor reads a GPU and there is none. Its other errors are passed on.
        """
        arguments = self.arguments(size)
        start = time.perf_counter()
        try:
            model, reason = build_without_memory(lambda: self.factory(**arguments), self.reference)
        finally:
            self._seconds += time.perf_counter() - start
            self._builds += 1
        self.allocates = self.allocates or reason
        return model

    def count(self, size: Size) -> ParamCount | None:
        """The parameters at this size, ``None`` where the constructor refuses it."""
        key = repr(size)
        if key not in self._counts:
            try:
                model = self.build_meta(size)
            except (MissingExtraError, GpuNeededError):
                raise
            except Exception as error:  # the user's constructor may raise anything
                self.refusals[key] = f"{type(error).__name__}: {error}"
                self._counts[key] = None
            else:
                self._counts[key] = count_params(model, self.reference)
        return self._counts[key]

    def require(self, size: Size) -> ParamCount:
        """Like :meth:`count`, for a size that was asked for by name."""
        counted = self.count(size)
        if counted is None:
            raise ModelError(
                f"sizes: {self.reference} refuses {self.arguments(size)}: "
                f"{self.refusals[repr(size)]}. Leave that size out or change it."
            )
        return counted

    def nearest(self, params: float) -> tuple[int, ParamCount] | None:
        """The accepted integer size of about ``params`` parameters: :meth:`SizeSearch.nearest`."""
        if self._search is None:
            self._search = SizeSearch(
                self._count_in_search, self.reference, self.size_param or "size", self.refusals
            )
        return self._search.nearest(params)

    def _count_in_search(self, size: int) -> ParamCount | None:
        """Like :meth:`count`, without building for real what would not fit into memory."""
        key = repr(size)
        if key in self._counts or not self.allocates:
            return self.count(size)
        expected = self._expected(size)
        if expected > _ALLOCATED:
            self.refusals[key] = (
                f"its constructor allocates memory ({self.allocates}), and about {expected:.1g} "
                f"parameters are more than the {_ALLOCATED:.0e} that are built only to be counted"
            )
            return None
        return self.count(size)

    def _expected(self, size: int) -> float:
        """N at a size that was not built, from the two largest that were: N = k·size^p."""
        known = sorted(
            (int(key), counted.total)
            for key, counted in self._counts.items()
            if counted is not None and key.isdigit()
        )
        below = [pair for pair in known if pair[0] < size]
        if not below:
            return 0.0
        (s1, n1), power = below[-1], 2.0
        if len(below) > 1:
            s0, n0 = below[-2]
            power = max(math.log(n1 / n0) / math.log(s1 / s0), 1.0)
        return float(n1 * (size / s1) ** power)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found out about building this model, in sentences."""
        out = []
        if self.allocates:
            out.append(
                f"The constructor of {self.reference} allocates memory even where none is needed "
                f"({self.allocates}): sizes above {_ALLOCATED:.0e} parameters are not looked for. Name "
                "larger ones with sizes=."
            )
        if self._seconds > _SLOW:
            out.append(
                f"Building {self.reference} took {self._seconds:.0f} s for {self._builds} sizes, without "
                "training. sizes=[...] leaves out the search."
            )
        return tuple(out)

    def fingerprint(self, size: Size) -> str:
        """The model's code, arguments and structure at this size, as a hash."""
        model = self.build_meta(size)
        parts = [self._code(self.factory), fingerprint_any(self.arguments(size))]
        if hasattr(model, "named_parameters"):
            parts.append(re.sub(r" at 0x[0-9a-f]+", "", repr(model)))
            parts += [f"{n}{tuple(p.shape)}{p.dtype}" for n, p in model.named_parameters()]
            classes = {
                type(m) for m in model.modules() if not type(m).__module__.startswith("torch.")
            }
            parts += sorted(self._code(c) for c in classes)
        return digest(parts)

    def _code(self, obj: Any) -> str:
        # By identity, as instances need not be hashable; kept alive beside it.
        if id(obj) not in self._codes:
            self._codes[id(obj)] = (obj, fingerprint_code(obj))
        return self._codes[id(obj)][1]
