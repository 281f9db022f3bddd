"""The training data: a text that comes with Python. Replace it with your own."""

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Text(Dataset[tuple[Tensor, Tensor]]):
    """Python's own help texts, half a million characters, in pieces of ``length``.

    The last tenth is held out: it is the part "validation", the rest is "train".
    """

    def __init__(self, part: str, length: int = 64) -> None:
        from pydoc_data.topics import topics

        text = "\n\n".join(topics.values()).encode("ascii", "ignore")
        edge = len(text) * 9 // 10
        self.tokens = torch.tensor(list(text[:edge] if part == "train" else text[edge:]))
        self.length = length

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        """The characters of a piece, and for each of them the one that follows."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        piece = self.tokens[i * self.length : (i + 1) * self.length + 1]
        return piece[:-1], piece[1:]
