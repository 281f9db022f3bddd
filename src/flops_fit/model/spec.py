"""A model class or factory with its arguments: build it, count it, name what it is made of."""

from __future__ import annotations

import functools
import inspect
import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from flops_fit import rng
from flops_fit.errors import InputTypeError, MissingExtraError, ModelError, is_whole, nearest_name
from flops_fit.fingerprint import digest, fingerprint_any, fingerprint_code, reference
from flops_fit.lazy import nn, torch
from flops_fit.model.params import SizeSearch, count_params
from flops_fit.model.sharing import Held
from flops_fit.records import Findings, ParamCount

Size = int | float | str | Mapping[str, Any]
_ALLOCATED = 2.5e8  # parameters, 1 GB: the largest model that is allocated only to be counted
_PLAIN = (bool, int, float, str, list, tuple, type(None))  # arguments that hold no size
_SLOW = 30.0  # seconds of building that are worth a note
_UNNOTED_ELEMENTS = 1_000_000  # that a constructor may allocate without a note
_in_words = Findings(Path(__file__).with_name("notes.toml"))
_NO_GPU = (
    "not compiled with cuda", "nvidia driver", "no cuda gpus", "no hip gpus", "no xpu devices",
)  # fmt: skip


@dataclass
class ModelSpec:
    """A model class or factory, the argument that sets its size, and its other arguments."""

    factory: Callable[..., Any]
    size_param: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()  # of a size's arguments, those of the data
    given: dict[str, Size] = field(default_factory=dict, repr=False)  # by how records show them
    refusals: dict[str, str] = field(default_factory=dict, repr=False)
    _counts: dict[str, ParamCount | None] = field(default_factory=dict, repr=False)
    _codes: dict[int, tuple[Any, str]] = field(default_factory=dict, repr=False)
    allocates: str = field(default="", repr=False)
    _search: SizeSearch | None = field(default=None, repr=False)
    _seconds: float = field(default=0.0, repr=False, compare=False)
    _builds: int = field(default=0, repr=False, compare=False)
    _held: Held = field(default_factory=Held, repr=False, compare=False)
    _named: bool = field(default=True, repr=False)  # the size goes to the factory, as its argument

    def __post_init__(self) -> None:
        if not callable(self.factory):
            raise InputTypeError(
                f"model_cls: expected a class or a factory that returns a torch.nn.Module; "
                f"got {type(self.factory).__name__}."
            )
        if hasattr(self.factory, "named_parameters") and not isinstance(self.factory, type):
            kind = type(self.factory).__name__
            raise InputTypeError(
                f"model_cls: expected a class, or a function of the size that builds a model; got a {kind} "
                f"that is built already, whose size cannot change. Give model_cls={kind}, or a function."
            )
        if not isinstance(self.kwargs, Mapping):
            raise InputTypeError(
                f"model_kwargs: expected a dict of arguments; got {type(self.kwargs).__name__}."
            )
        try:
            parameters = inspect.signature(self.factory).parameters
        except (TypeError, ValueError):  # builtins without a signature are found out when built
            return
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        follows = any(map(self._follows, self.kwargs.values()))
        self._named = self.size_param in parameters or not follows
        sizes = [self.size_param] if self.size_param and self._named else []
        for name in [*self.kwargs, *sizes]:
            if name not in parameters and not takes_any:
                hint = nearest_name(name, parameters)
                what = "model_size_param" if name == self.size_param else "model_kwargs"
                raise ModelError(
                    f"{what}: {self.reference} takes no argument {name!r}; it takes {list(parameters)}.{hint}"
                )

    @property
    def reference(self) -> str:
        """``module.qualname`` of the class or factory."""
        return reference(self.factory)

    def arguments(self, size: Size) -> dict[str, Any]:
        """All keyword arguments at this size; those given as a function of it are called.

        One that makes an object, a configuration, stands for the size where the factory does not name it.
        """
        size = self.given.get(repr(size), size)
        if isinstance(size, Mapping):
            at = size.get(str(self.size_param))
            known = {
                k: v(at) if at is not None and self._follows(v) else v
                for k, v in self.kwargs.items()
            }
            left_out = {*self.beside, *([] if self._named else [self.size_param])}
            return known | {k: v for k, v in size.items() if k not in left_out}
        if self.size_param is None:
            raise ModelError(
                "model_size_param: expected the name of the argument that sets the model's size, "
                "or sizes=[{...}, ...] as dicts of arguments; got neither."
            )
        made = {k: v(size) for k, v in self.kwargs.items() if self._follows(v)}
        own = {**self.kwargs, **made}
        held = not all(isinstance(v, _PLAIN) for v in made.values())
        return own if held and not self._named else {self.size_param: size} | own

    def _follows(self, value: Any) -> bool:
        """Whether an argument is a function of the size: of one parameter, which has its name."""
        if not isinstance(value, FunctionType):
            return False
        return list(inspect.signature(value).parameters) == [self.size_param]

    def build(self, size: Size) -> nn.Module:
        """The model itself, with memory that it owns; errors of the constructor are passed on."""
        with suppress(Exception):  # the constructor may refuse a build without memory
            self._note_held(size)
        model: nn.Module = self._held.released(self.factory(**self.arguments(size)), self.reference)
        return model

    def build_meta(self, size: Size) -> Any:
        """The model on the meta device, or on the CPU where that is impossible: see ``allocates``.

        Errors of the constructor are passed on; :class:`GpuNeededError` where it reads a missing GPU.
        """
        self._note_held(size)
        return self._held.released(self._build_meta(size), self.reference)

    def _note_held(self, size: Size) -> None:
        """See, once at each size, which of the model's parts the user's code holds."""
        if (key := repr(size)) not in self._held.noted:
            with rng.kept():
                self._held.note(key, self._build_meta(size))

    def _build_meta(self, size: Size) -> Any:
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
                model = self._build_meta(size)
            except (MissingExtraError, GpuNeededError):
                raise
            except Exception as error:  # the user's constructor may raise anything
                self.refusals[key] = f"{type(error).__name__}: {error}"
                self._counts[key] = None
            else:
                self._held.note(key, model)
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
        expected = self._expected(size) if self.allocates and key not in self._counts else 0.0
        if expected <= _ALLOCATED:
            return self.count(size)
        self.refusals[key] = (
            f"its constructor allocates memory ({self.allocates}), and about {expected:.1g} "
            f"parameters are more than the {_ALLOCATED:.0e} that are built only to be counted"
        )
        return None

    def _expected(self, size: int) -> float:
        """N at a size that was not built, from the two largest that were: N = k·size^p."""
        below = sorted(
            (int(key), counted.total)
            for key, counted in self._counts.items()
            if counted is not None and key.isdigit() and int(key) < size
        )
        if not below:
            return 0.0
        (s1, n1), power = below[-1], 2.0
        if len(below) > 1:
            s0, n0 = below[-2]
            power = max(math.log(n1 / n0) / math.log(s1 / s0), 1.0)
        return float(n1 * (size / s1) ** power)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on building this model, in sentences."""
        out = []
        if self.allocates:
            out.append(_in_words("allocates", spec=self, limit=_ALLOCATED))
        if self._seconds > _SLOW:
            spent = {"seconds": self._seconds, "builds": self._builds}
            out.append(_in_words("slow", spec=self, **spent))
        return tuple(note.message for note in out)

    def fingerprint(self, size: Size) -> str:
        """The model's code, arguments and structure at this size, as a hash."""
        model = self.build_meta(size)
        parts = [self._code(self.factory), fingerprint_any(self.arguments(size))]
        if hasattr(model, "named_parameters"):
            parts.append(re.sub(r" at 0x[0-9a-f]+", "", repr(model)))
            parts += [f"{n}{tuple(p.shape)}{p.dtype}" for n, p in model.named_parameters()]
            classes = {type(m) for m in model.modules()}
            own = [c for c in classes if not c.__module__.startswith("torch.")]
            parts += sorted(self._code(c) for c in own)
        return digest(parts)

    def _code(self, obj: Any) -> str:
        # By identity, as instances need not be hashable; kept alive beside it.
        if id(obj) not in self._codes:
            self._codes[id(obj)] = (obj, fingerprint_code(obj))
        return self._codes[id(obj)][1]


class GpuNeededError(ModelError):
    """The constructor reads a GPU where there is none."""


def build_without_memory(make: Callable[[], Any], name: str) -> tuple[Any, str]:
    """The model on the meta device, or else on the CPU, and why memory was allocated, or ``""``."""
    meta = torch.device("meta")
    try:
        rules, by_shape = _meta_rules()
        with meta, rules, by_shape:
            model = make()
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        if not isinstance(error, NotImplementedError):
            _refuse_missing_gpu(error, name)
            if "meta" not in str(error).lower():
                raise
        try:
            return make(), f"it needs the values of its tensors: {_first_line(error)}"
        except (RuntimeError, AssertionError) as second:
            _refuse_missing_gpu(second, name)
            raise
    allocated = 0
    if hasattr(model, "parameters") and hasattr(model, "buffers"):
        tensors = (t for t in (*model.parameters(), *model.buffers()) if not t.is_meta)
        allocated = sum(t.untyped_storage().nbytes() // t.element_size() for t in tensors)
    if allocated > _UNNOTED_ELEMENTS:
        return model, "it makes tensors from NumPy arrays, files or on a named device"
    return model, ""


def _refuse_missing_gpu(error: Exception, name: str) -> None:
    if any(part in str(error).lower() for part in _NO_GPU):
        raise GpuNeededError(
            f"model_cls: the constructor of {name} uses a GPU, and there is none here: {_first_line(error)}. "
            "Plan on a machine that has one, or leave devices to the trainer, which moves the model."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")


@functools.cache
def _meta_rules() -> tuple[Any, Any]:
    """Modes for building on the meta device: no initialisation, no GPU, point-wise work by shape."""
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    init, aten = torch.nn.init, torch.ops.aten
    ranges = (aten.arange.default, aten.arange.start, aten.arange.start_step)
    skipped = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.cuda, torch.Tensor.xpu}
    skipped |= {getattr(init, n) for n in dir(init) if n.endswith("_") and not n.startswith("_")}

    def on_accelerator(device: Any) -> bool:
        if is_whole(device):
            return True
        try:
            return torch.device(device).type not in ("cpu", "meta")
        except (RuntimeError, TypeError):
            return False

    class MetaRules(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = dict(kwargs or {})
            tensor = args[0] if args else kwargs.get("tensor")
            if getattr(tensor, "is_meta", False):
                if func in skipped:
                    return tensor
                targets = (*args[1:2], kwargs.get("device"))
                if func is torch.Tensor.to and any(map(on_accelerator, targets)):
                    values = (*args[1:], *kwargs.values())
                    dtypes = [v for v in values if isinstance(v, torch.dtype)]
                    return tensor.to(dtypes[0]) if dtypes else tensor
            if kwargs.get("device") is not None and on_accelerator(kwargs["device"]):
                kwargs["device"] = "meta"
            return func(*args, **kwargs)

    class ByShape(TorchDispatchMode):  # type: ignore[no-untyped-call]  # it has no types
        """Tables of positions without torch's rules for them, whose import takes a second."""

        @classmethod
        def _should_skip_dynamo(cls) -> bool:  # or torch imports its compiler for this mode
            return False

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if func in ranges and str(kwargs.get("device")) == "meta" and all(map(is_whole, args)):
                dtype = kwargs.get("dtype") or torch.int64
                return torch.empty(len(range(*args)), dtype=dtype, device="meta")
            joins = func is aten.cat.default
            given = args[0] if joins else args
            tensors = [t for t in given if isinstance(t, torch.Tensor)]
            shape: tuple[int, ...] | None = None
            if not tensors or kwargs or not all(t.is_meta and t.is_contiguous() for t in tensors):
                pass
            elif joins and len({t.dim() for t in tensors}) == 1:
                lengths = [*tensors[0].shape]
                axis = args[1] if len(args) > 1 else 0
                lengths[axis] = sum(t.shape[axis] for t in tensors)
                shape = tuple(lengths)
            elif torch.Tag.pointwise in func.tags and not func._schema.is_mutable:
                shape = np.broadcast_shapes(*(t.shape for t in tensors))
            if shape is None:
                return func(*args, **kwargs)
            # The type of the result is that of one number in place of each tensor.
            ones = [
                torch.ones([1] * v.dim(), dtype=v.dtype) if isinstance(v, torch.Tensor) else v
                for v in given
            ]
            one = func(ones, *args[1:]) if joins else func(*ones)
            return torch.empty(shape, dtype=one.dtype, device="meta")

    return MetaRules(), ByShape()  # type: ignore[no-untyped-call]  # it has no types
