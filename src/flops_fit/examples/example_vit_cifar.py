"""How big a vision transformer, on how many images: any model and any data will do.

::

    python -m flops_fit.examples.example_vit_cifar                  # simulated: seconds
    python -m flops_fit.examples.example_vit_cifar --data offline   # trains on installed images
    python -m flops_fit.examples.example_vit_cifar --real           # trains on CIFAR-10

Here D counts images, not tokens. Without ``--real`` or ``--data`` the runs are simulated.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

import flops_fit
from flops_fit.errors import InputError
from flops_fit.examples.example_programmatic import show
from flops_fit.examples.images import CIFAR10Dataset, offline_images
from flops_fit.examples.vit import VisionTransformer, vit_loss_fn

BUDGETS = {
    "mock": (1e16, 3e16, 1e17, 3e17, 1e18),
    "offline": (1e10, 3e10, 1e11),
    "cifar10": (1e13, 3e13, 1e14, 3e14),
}

# The default recipe is for text; at its rate wide models would not learn images at all.
LEARNING_RATE = 3e-3


def make_vit_factory(
    num_layers: int = 2, num_heads: int = 8, patch_size: int = 4
) -> functools.partial[VisionTransformer]:
    """A vision transformer of any ``embed_dim``; all else is fixed here."""
    return functools.partial(
        VisionTransformer, num_layers=num_layers, num_heads=num_heads, patch_size=patch_size
    )


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
    """Sweep vision transformers and fit a law: simulated, or trained on CIFAR-10 or offline data."""
    data = data or ("cifar10" if use_real_data else None)
    if data not in ("offline", "cifar10", None):
        raise InputError(f"data must be 'cifar10', 'offline' or None to simulate, got {data!r}.")
    images = offline_images if data == "offline" else CIFAR10Dataset
    result = flops_fit.find_optimal(
        model_cls=make_vit_factory(num_layers=2, num_heads=8 if data != "offline" else 4),
        model_size_param="embed_dim",
        dataset=images(train=True) if data else _make_synthetic_cifar_dataset(),
        eval_dataset=images(train=False) if data else None,
        loss_fn=vit_loss_fn,
        compute_budgets=list(budgets or BUDGETS[data or "mock"]),
        mode="local" if data else "mock",
        output_dir=output_dir,
        executor=executor,
        hparams={"lr": LEARNING_RATE},
        example_batch=(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64)),
    )
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
