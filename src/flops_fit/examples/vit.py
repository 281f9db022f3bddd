"""A vision transformer for small images.

Dosovitskiy et al. 2021: P×P patches are tokens behind a class token, for a pre-norm encoder with
learned positions and a GELU MLP of 4·d. Linear layers have biases, norms a gain and a shift, so

    N = L·(12·d² + 13·d) + d·(c·P² + 1) + d·((S/P)² + 2) + 2·d + K·(d + 1)

for L layers, width d, S×S images of c channels and K classes: 108,106 by default.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from flops_fit.errors import ModelError


class _EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); every token sees every token."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(embed_dim)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.up = nn.Linear(embed_dim, 4 * embed_dim)
        self.down = nn.Linear(4 * embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.proj(self._attend(self.norm1(x)))
        out: Tensor = x + self.down(functional.gelu(self.up(self.norm2(x))))
        return out

    def _attend(self, x: Tensor) -> Tensor:
        B, T, d = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).reshape(B, T, d)


class VisionTransformer(nn.Module):
    """Image classifier: (B, c, S, S) to logits (B, K).

    It has width d, a multiple of the number of attention heads, blocks L and classes K. The side S of the
    square images of c channels is a multiple of the side P of a patch. ModelError, a ``ValueError``, for
    a shape that cannot be built.

    >>> VisionTransformer().num_params()
    108106
    """

    def __init__(
        self,
        embed_dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 8,
        image_size: int = 32,
        patch_size: int = 4,
        num_classes: int = 10,
        channels: int = 3,
    ) -> None:
        super().__init__()
        shape = (embed_dim, num_layers, num_heads, image_size, patch_size, num_classes, channels)
        if min(shape) < 1:
            raise ModelError("Every argument of VisionTransformer must be at least 1.")
        if embed_dim % num_heads:
            raise ModelError(
                f"embed_dim must be divisible by num_heads, got embed_dim={embed_dim} and "
                f"num_heads={num_heads}: use a width that is a multiple of {num_heads}."
            )
        if image_size % patch_size:
            raise ModelError(
                f"image_size must be divisible by patch_size, got image_size={image_size} and "
                f"patch_size={patch_size}."
            )
        patches = (image_size // patch_size) ** 2
        self.patch = nn.Conv2d(channels, embed_dim, kernel_size=patch_size, stride=patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.positions = nn.Parameter(torch.empty(1, patches + 1, embed_dim))
        self.blocks = nn.ModuleList(_EncoderBlock(embed_dim, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        nn.init.normal_(self.positions, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, c, S, S)."""
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits

    def num_params(self) -> int:
        """N, every weight, bias and embedding included."""
        return sum(parameter.numel() for parameter in self.parameters())


def vit_loss_fn(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats of logits (B, K) at labels (B,)."""
    return functional.cross_entropy(logits, labels)
