"""The user's model: build it at a size, count its parameters, find the size for a wanted N.

Counting and searching build on torch's meta device, where nothing is allocated: an 80-layer model
costs seconds and no memory.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flops_fit.errors import InputTypeError, MissingExtraError, ModelError
from flops_fit.fingerprint import digest, fingerprint_any, fingerprint_code, reference
from flops_fit.records import ParamCount

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModelSpec", "Size", "count_params"]

Size = int | float | str | Mapping[str, Any]
_SCAN = 1024  # how far the first accepted sizes are looked for
_GROWTH = 64  # N has to have grown after this many sizes
_NEIGHBOURS = 64  # how far around a refused size an accepted one is looked for


@dataclass
class ModelSpec:
    """A model class or factory, the argument that sets its size, and its other arguments."""

    factory: Callable[..., Any]
    size_param: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict, repr=False)
    _counts: dict[str, ParamCount | None] = field(default_factory=dict, repr=False)
    _codes: dict[int, tuple[Any, str]] = field(default_factory=dict, repr=False)
    _grid: tuple[int, int] | None = field(default=None, repr=False)

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
        on the CPU instead.
        """
        torch = _torch()
        try:
            with torch.device("meta"), _no_init():
                return self.factory(**self.arguments(size))
        except NotImplementedError:
            return self.factory(**self.arguments(size))
        except RuntimeError as error:
            if "meta" not in str(error).lower():
                raise
            return self.factory(**self.arguments(size))

    def count(self, size: Size) -> ParamCount | None:
        """The parameters at this size, ``None`` where the constructor refuses it."""
        key = repr(size)
        if key not in self._counts:
            try:
                model = self.build_meta(size)
            except MissingExtraError:
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
        """The accepted integer size whose total N is nearest to ``params`` in ratio.

        N is taken to grow with the size. ``None`` where even the largest size that the
        constructor accepts is below a third of what is wanted.

        Raises
        ------
        ModelError
            The constructor accepts no size, or N does not grow with it.
        """
        first, stride = self._accepted_grid()
        low, high = 0, 1
        while (top := self._near(first + stride * high)) is not None and top[1].total < params:
            low, high = high, high * 2
        if top is None:
            high = self._last_accepted(low, high, first, stride)
        while high - low > 1:
            k = self._between(low, high, params, first, stride)
            at = self._near(first + stride * k)
            if at is None:
                break
            low, high = (k, high) if at[1].total < params else (low, k)
        ends = [self._near(first + stride * k) for k in (low, high)]
        found = [end for end in ends if end is not None]
        best = min(found, key=lambda end: abs(math.log(end[1].total / params)), default=None)
        return None if best is None or best[1].total < params / 3 else best

    def _accepted_grid(self) -> tuple[int, int]:
        """The smallest accepted size, and the step to the next one."""
        if self._grid is None:
            accepted = []
            for size in range(1, _SCAN + 1):
                if self.count(size) is not None:
                    accepted.append(size)
                    if len(accepted) == 2:
                        break
            if not accepted:
                reasons = list(dict.fromkeys(self.refusals.values()))
                raise ModelError(
                    f"model_size_param: {self.reference} accepts no {self.size_param} from 1 to "
                    f"{_SCAN}. It says: {'; '.join(reasons[:2])}. "
                    "Check model_kwargs, or name sizes that work: sizes=[...]."
                )
            self._grid = (accepted[0], accepted[-1] - accepted[0] or accepted[0])
            self._check_growth(*self._grid)
        return self._grid

    def _check_growth(self, first: int, stride: int) -> None:
        """Refuse a size parameter that does not set the size, such as a context length."""
        small, large = self.count(first), self._near(first + _GROWTH * stride)
        if small is None or large is None or large[0] <= first:
            return
        if large[1].total <= small.total:
            raise ModelError(
                f"model_size_param: N does not grow with {self.size_param}: {self.reference} has "
                f"{small.total:,} parameters at {first} and {large[1].total:,} at {large[0]}. Name "
                "the argument that sets the size, or give sizes=[{...}, ...]."
            )

    def _near(self, size: int) -> tuple[int, ParamCount] | None:
        """The accepted size nearest to ``size``."""
        _, stride = self._accepted_grid()
        power = 1 << max(size.bit_length() - 1, 0)
        steps = [size + sign * stride * k for k in range(_NEIGHBOURS) for sign in (1, -1)]
        for candidate in [*steps[1:4], power, 2 * power, *steps[4:]]:
            if candidate > 0 and (counted := self.count(candidate)) is not None:
                return candidate, counted
        return None

    def _between(self, low: int, high: int, params: float, first: int, stride: int) -> int:
        """Where N = ``params`` lies between two sizes, if N is a power of the size."""
        ends = [self._near(first + stride * k) for k in (low, high)]
        if ends[0] is None or ends[1] is None:
            return (low + high) // 2
        (s0, p0), (s1, p1) = ends[0], ends[1]
        n0, n1 = math.log(p0.total), math.log(p1.total)
        if s1 <= s0 or n1 <= n0:
            return (low + high) // 2
        share = min(max((math.log(params) - n0) / (n1 - n0), 0.0), 1.0)
        size = s0 * (s1 / s0) ** share
        return int(min(max(round((size - first) / stride), low + 1), high - 1))

    def _last_accepted(self, low: int, high: int, first: int, stride: int) -> int:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (low, middle) if self._near(first + stride * middle) is None else (middle, high)
            )
        return low

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


def count_params(model: Any, name: str = "the model") -> ParamCount:
    """Count a model's parameters under each convention.

    A model's own ``num_params()`` is taken as its total; a torch module without one is counted.

    Raises
    ------
    InputTypeError
        Neither a torch module nor an object with ``num_params()``.
    ModelError
        ``num_params()`` raises or gives no positive whole number; or there are no parameters.
    """
    torch = _torch()
    own = _own_count(model, name)
    if not isinstance(model, torch.nn.Module):
        if own is None:
            raise InputTypeError(
                f"model_cls: expected {name} to return a torch.nn.Module or an object with "
                f"num_params(); got {type(model).__name__}, which is neither."
            )
        return ParamCount(own, own, own, own)
    if any(isinstance(p, torch.nn.UninitializedParameter) for p in model.parameters()):
        raise ModelError(
            f"model_cls: {name} has lazy layers, whose sizes are unknown before the first batch. Give "
            "its layers their sizes."
        )
    counted = sum(p.numel() for p in model.parameters())
    total = counted if own is None else own
    if total == 0:
        raise ModelError(
            f"model_cls: {name} has no parameters, so it has no size. Check its constructor."
        )
    embedding, matmul = _embedding_and_matmul(model)
    return ParamCount(total, max(total - embedding, 1), matmul, total)


def _own_count(model: Any, name: str) -> int | None:
    method = getattr(model, "num_params", None)
    if method is None:
        return None
    try:
        value = method() if callable(method) else method
    except Exception as error:  # the user's method may raise anything
        raise ModelError(
            f"model_cls: {name}.num_params() raised {type(error).__name__}: {error}. "
            "Mend it, or leave it out and the parameters are counted."
        ) from error
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value < 1:
        raise ModelError(
            f"model_cls: {name}.num_params() returned {value!r}; expected a positive whole number."
        )
    return int(value)


def _embedding_and_matmul(model: nn.Module) -> tuple[int, int]:
    """Parameters looked up in tables, and parameters that multiply activations.

    A table shared with a linear head counts as both. Tensors of two dimensions that a module of
    the user's own holds are taken to multiply; convolutions and attention are known by class.
    """
    torch = _torch()
    nn = torch.nn
    conv = nn.modules.conv._ConvNd
    known = (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, conv)
    lookup: dict[int, int] = {}
    matmul: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                lookup[id(parameter)] = parameter.numel()
            elif parameter.dim() == 2 or (isinstance(module, known) and parameter.dim() > 2):
                matmul[id(parameter)] = parameter.numel()
    return sum(lookup.values()), sum(matmul.values())


def _no_init() -> Any:
    """Skip the random initialisation of meta tensors: they have no values, and it is slow there."""
    torch = _torch()
    from torch.overrides import TorchFunctionMode

    init = torch.nn.init
    skipped = {torch.Tensor.normal_, torch.Tensor.uniform_}
    skipped |= {getattr(init, n) for n in dir(init) if n.endswith("_") and not n.startswith("_")}

    class NoInit(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            tensor = args[0] if args else kwargs.get("tensor")
            if func in skipped and tensor is not None and tensor.is_meta:
                return tensor
            return func(*args, **kwargs)

    return NoInit()


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "train", "planning and training models") from None
    return torch
