"""The model to find the best size of, and its loss. Replace both with your own."""

import torch
from torch import Tensor, nn
from torch.nn import functional

torch.set_num_threads(1)  # more do not speed up a model this small


class Model(nn.Module):
    """Predicts each next character from the ``context`` before it; ``width`` sets its size."""

    def __init__(self, width: int, context: int, vocab_size: int) -> None:
        super().__init__()
        self.context = context
        self.embed = nn.Embedding(vocab_size, width)
        self.up = nn.Linear(context * width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.head = nn.Linear(width, vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """From (batch, length) characters to logits of the next ones, (batch, length, vocab_size)."""
        x = functional.pad(self.embed(tokens), (0, 0, self.context - 1, 0))
        x = x.unfold(1, self.context, 1).flatten(2)  # the context of each position
        logits: Tensor = self.head(self.down(functional.gelu(self.up(x))))
        return logits


def loss_fn(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over all characters of a batch, as flops-fit expects it."""
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
