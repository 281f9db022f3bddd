"""Models and data to try flops-fit on, and scripts that do.

``GPT`` and ``VisionTransformer`` are small models with exact sizes; ``SOTUDataset`` (text),
``FashionMNISTDataset`` and ``MNISTDataset`` (images) are real data that need no download;
``TinyStoriesDataset`` and ``CIFAR10Dataset`` download at first access. Importing this package does
not import torch. The scripts run as ``python -m flops_fit.examples.example_programmatic``,
``...example_cli_wrapper`` and ``...example_vit_cifar``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from flops_fit.errors import MissingExtraError

if TYPE_CHECKING:
    from flops_fit.examples.example_vit_cifar import fashion_sweep
    from flops_fit.examples.gpt import GPT, GPTConfig, create_model_for_scaling, gpt_loss_fn
    from flops_fit.examples.images import (
        CIFAR10Dataset,
        FashionMNISTDataset,
        MNISTDataset,
        offline_images,
    )
    from flops_fit.examples.mixture import MixtureGPT
    from flops_fit.examples.text import SOTUDataset, TinyStoriesDataset
    from flops_fit.examples.vit import VisionTransformer, vit_loss_fn

__all__ = [
    "GPT", "CIFAR10Dataset", "FashionMNISTDataset", "GPTConfig", "MNISTDataset", "MixtureGPT", "SOTUDataset",
    "TinyStoriesDataset", "VisionTransformer", "create_model_for_scaling", "fashion_sweep",
    "gpt_loss_fn", "offline_images", "vit_loss_fn",
]  # fmt: skip

_MODULES = {
    "example_vit_cifar": ("fashion_sweep",),
    "gpt": ("GPT", "GPTConfig", "create_model_for_scaling", "gpt_loss_fn"),
    "images": ("CIFAR10Dataset", "FashionMNISTDataset", "MNISTDataset", "offline_images"),
    "mixture": ("MixtureGPT",),
    "text": ("SOTUDataset", "TinyStoriesDataset"),
    "vit": ("VisionTransformer", "vit_loss_fn"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "demo", f"flops_fit.examples.{name}") from None
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
