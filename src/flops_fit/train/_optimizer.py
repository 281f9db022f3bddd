"""AdamW as a run asks for it."""

from __future__ import annotations

from typing import Any

__all__ = ["make_optimizer"]


def make_optimizer(model: Any, hparams: Any) -> Any:
    """AdamW with decoupled weight decay on matrices: not on norms, biases and embeddings."""
    import torch

    tables = {
        id(p)
        for m in model.modules()
        if isinstance(m, torch.nn.Embedding | torch.nn.EmbeddingBag)
        for p in m.parameters(recurse=False)
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.dim() >= 2 and id(p) not in tables]
    rest = [p for p in trained if p.dim() < 2 or id(p) in tables]
    groups = [
        {"params": decayed, "weight_decay": float(hparams["weight_decay"])},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]],
        lr=float(hparams["lr"]),
        betas=(float(hparams["beta1"]), float(hparams["beta2"])),
        fused=all(p.is_floating_point() for p in trained),
    )
