"""How big a vision transformer, on how many images: any model and any data will do.

::

    python -m flops_fit.examples.example_vit_cifar                  # simulated: seconds
    python -m flops_fit.examples.example_vit_cifar --data offline   # trains on Fashion-MNIST
    python -m flops_fit.examples.example_vit_cifar --real           # trains on CIFAR-10

Here D counts images, not tokens. Without ``--real`` or ``--data`` the runs are simulated.
"""

import argparse
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset

import flops_fit
from flops_fit.errors import InputError
from flops_fit.examples.example_programmatic import show
from flops_fit.examples.images import DEBIAN_FASHION_MNIST, CIFAR10Dataset, FashionMNISTDataset
from flops_fit.examples.vit import VisionTransformer, vit_loss_fn
from flops_fit.plan.designs import Grid
from flops_fit.recipes.resolve import RecipePowerLaw, RecipeTable

BUDGETS = {"mock": (1e16, 3e16, 1e17, 3e17, 1e18), "cifar10": (1e13, 3e13, 1e14, 3e14)}

# The default recipe is for text; at its rate wide models would not learn images at all.
LEARNING_RATE = 3e-3

FASHION_SIZES: dict[float, list[int]] = {
    3.2e9: [4, 6, 8, 10, 12],
    6.4e9: [4, 6, 8, 10, 12, 16],
    1.28e10: [6, 8, 10, 12, 16],
    2.56e10: [6, 8, 10, 12, 16, 20],
    5.12e10: [8, 10, 12, 16, 20, 24],
}
"""Widths at each budget in FLOPs: both arms of every parabola, and at most four epochs."""

_LAWS = {
    "lr": RecipePowerLaw(0.2, width=-1.0, max=0.03),
    "batch_units": RecipePowerLaw(0.1, units=0.5, min=8),
}
FASHION_RECIPE = RecipeTable("fashion-vit-1", {}, _LAWS)


def make_vit_factory(
    num_layers: int = 2, num_heads: int = 8, patch_size: int = 4
) -> functools.partial[VisionTransformer]:
    """A vision transformer of any ``embed_dim``; all else is fixed here."""
    return functools.partial(
        VisionTransformer, num_layers=num_layers, num_heads=num_heads, patch_size=patch_size
    )


def fashion_sweep(
    data_dir: str | Path | None = None, sizes: Mapping[float, Sequence[int]] = FASHION_SIZES
) -> dict[str, Any]:
    """Arguments of a sweep of vision transformers on Fashion-MNIST, with these widths at each budget."""
    images = functools.partial(
        FashionMNISTDataset, data_dir=data_dir or DEBIAN_FASHION_MNIST, framed=False
    )
    shape = {"num_layers": 2, "num_heads": 2, "image_size": 28, "patch_size": 7, "channels": 1}
    return {
        "model_cls": VisionTransformer, "model_size_param": "embed_dim", "model_kwargs": shape,
        "dataset": images(train=True), "eval_dataset": images(train=False),
        "loss_fn": vit_loss_fn, "compute_budgets": list(sizes), "sizes": sizes,
        "hparams": FASHION_RECIPE, "design": Grid(repeats=2),
    }  # fmt: skip


def _make_synthetic_cifar_dataset(size: int = 256) -> TensorDataset:
    """Noise of the shape of CIFAR-10, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(size, 3, 32, 32, generator=generator) * 2 - 1
    return TensorDataset(images, torch.arange(size) % 10)


def run(
    use_real_data: bool = False,
    output_dir: str | Path = "outputs/vit_cifar",
    *,
    data: str | None = None,
    budgets: Sequence[float] | None = None,
    executor: str = "inprocess",
) -> flops_fit.Result:
    """Sweep vision transformers and fit a law: simulated, or trained on CIFAR-10 or Fashion-MNIST."""
    data = data or ("cifar10" if use_real_data else None)
    if data not in ("offline", "cifar10", None):
        raise InputError(f"data must be 'cifar10', 'offline' or None to simulate, got {data!r}.")
    sweep: dict[str, Any] = {
        "model_cls": make_vit_factory(),
        "model_size_param": "embed_dim",
        "dataset": CIFAR10Dataset(train=True) if data else _make_synthetic_cifar_dataset(),
        "eval_dataset": CIFAR10Dataset(train=False) if data else None,
        "loss_fn": vit_loss_fn,
        "compute_budgets": list(budgets or BUDGETS[data or "mock"]),
        "mode": "local" if data else "mock",
        "hparams": {"lr": LEARNING_RATE},
        "example_batch": (torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64)),
    }
    if data == "offline":
        sweep = fashion_sweep()
        if budgets:
            sweep |= {"compute_budgets": list(budgets), "sizes": None}
    result = flops_fit.find_optimal(**sweep, output_dir=output_dir, executor=executor)
    assert isinstance(result, flops_fit.Result)
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--real", action="store_true", help="train, on CIFAR-10 by default")
    parser.add_argument("--data", choices=("cifar10", "offline"), help="train on these images")
    parser.add_argument("--output-dir", default="outputs/vit_cifar")
    args = parser.parse_args(argv)
    executor = "pool" if args.data == "offline" else "inprocess"
    result = run(args.real, args.output_dir, data=args.data, executor=executor)
    show(result, simulated=not (args.real or args.data), models="vision transformers")


if __name__ == "__main__":
    main()
