"""Build a model without memory, whatever its constructor does with devices and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flops_fit.errors import MissingExtraError, ModelError


def torch_or_error() -> Any:
    """The module torch."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "train", "planning and training models") from None
    return torch


_NEGLIGIBLE = 1_000_000  # elements that a constructor may allocate without a word
_NO_GPU = (
    "not compiled with cuda",
    "no cuda gpus",
    "nvidia driver",
    "no hip gpus",
    "no xpu devices",
)


class GpuNeededError(ModelError):
    """The constructor reads a GPU where there is none."""


def build_without_memory(make: Callable[[], Any], name: str) -> tuple[Any, str]:
    """The model on the meta device, and why memory was allocated (``""`` where it was not).

    Initialisation is skipped, and moves to a GPU are: meta tensors have nothing to move. What needs
    the values of its tensors is built on the CPU instead.
    """
    torch = torch_or_error()
    try:
        with torch.device("meta"), _meta_rules(torch):
            model = make()
    except NotImplementedError as error:
        return _for_real(make, name), _reason(error)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        _refuse_missing_gpu(error, name)
        if "meta" not in str(error).lower():
            raise
        return _for_real(make, name), _reason(error)
    if _allocated(model) > _NEGLIGIBLE:
        return model, "it makes tensors from NumPy arrays, files or on a named device"
    return model, ""


def _for_real(make: Callable[[], Any], name: str) -> Any:
    try:
        return make()
    except (RuntimeError, AssertionError) as error:
        _refuse_missing_gpu(error, name)
        raise


def _refuse_missing_gpu(error: Exception, name: str) -> None:
    if any(part in str(error).lower() for part in _NO_GPU):
        raise GpuNeededError(
            f"model_cls: the constructor of {name} uses a GPU, and there is none here: "
            f"{_first_line(error)}. Plan on a machine that has one, or leave devices to the trainer, "
            "which moves the model."
        ) from error


def _reason(error: Exception) -> str:
    return f"it needs the values of its tensors: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")


def _allocated(model: Any) -> int:
    """Elements of parameters and buffers that are not on the meta device."""
    if not hasattr(model, "parameters") or not hasattr(model, "buffers"):
        return 0
    tensors = [*model.parameters(), *model.buffers()]
    return sum(t.untyped_storage().nbytes() // t.element_size() for t in tensors if not t.is_meta)


def _meta_rules(torch: Any) -> Any:
    """Leave out initialisation, which is slow on meta tensors, and moves to an accelerator."""
    from torch.overrides import TorchFunctionMode

    init = torch.nn.init
    skipped = {torch.Tensor.normal_, torch.Tensor.uniform_}
    skipped |= {getattr(init, n) for n in dir(init) if n.endswith("_") and not n.startswith("_")}
    moves = {torch.Tensor.cuda, torch.Tensor.xpu}

    def on_accelerator(device: Any) -> bool:
        if isinstance(device, int) and not isinstance(device, bool):
            return True
        try:
            kind = torch.device(device).type
        except (RuntimeError, TypeError):
            return False
        return kind not in ("cpu", "meta")

    def dtype_only(tensor: Any, args: Any, kwargs: Any) -> Any:
        dtypes = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.dtype)]
        return tensor.to(dtypes[0]) if dtypes else tensor

    class MetaRules(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = dict(kwargs or {})
            tensor = args[0] if args else kwargs.get("tensor")
            if getattr(tensor, "is_meta", False):
                if func in skipped or func in moves:
                    return tensor
                if func is torch.Tensor.to and any(
                    on_accelerator(a) for a in (*args[1:2], kwargs.get("device"))
                ):
                    return dtype_only(tensor, args[1:], kwargs)
            if kwargs.get("device") is not None and on_accelerator(kwargs["device"]):
                kwargs["device"] = "meta"
            return func(*args, **kwargs)

    return MetaRules()
