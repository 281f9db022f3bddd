"""Models of the transformers package, built from configurations, with padded batches and their masks."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from torch import Tensor

from benchmarks.models.kinds import classes, generator, kind, points, words

V, T, F = 32, 12, 24  # vocabulary, positions, inner width
TEXT = {"vocab_size": V, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
LAYERS = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": F}
GROUPED = {**TEXT, **LAYERS, "num_key_value_heads": 2}
KEPT = T - 1.5  # positions that are no padding, in the mean


def padded() -> list[dict[str, Tensor]]:
    """Rows of 12 tokens, the last three of every other one padding."""
    samples = []
    for i, ids in enumerate(words(2000, T, V)):
        mask = (torch.arange(T) < T - 3 * (i % 2)).long()
        labels = torch.where(mask > 0, ids, -100)
        samples.append({"input_ids": ids * mask, "attention_mask": mask, "labels": labels})
    return samples


def masked() -> list[dict[str, Tensor]]:
    """The same, with three tokens of each row hidden, which alone are predicted."""
    out = []
    for i, sample in enumerate(padded()):
        hidden = torch.randperm(T - 3, generator=generator(i))[:3]
        labels = torch.full((T,), -100)
        labels[hidden] = sample["input_ids"][hidden]
        out.append(
            {**sample, "labels": labels, "input_ids": sample["input_ids"].index_fill(0, hidden, 1)}
        )
    return out


def attention(w: int, pairs: int = T * T) -> float:
    """Multiplications of scores and of their product with the values."""
    return 2.0 * pairs * w


def trained(multiplications: float) -> float:
    """FLOPs of a forward pass and twice as many of a backward one."""
    return 3 * 2 * multiplications


def gpt2_flops(w: int) -> float:
    return trained(T * (12 * w * w + w * V) + attention(w))


def llama_flops(w: int) -> float:
    return trained(T * (4 * w * w + 3 * w * F + w * V) + attention(w))


def mixtral_flops(w: int) -> float:
    """Two of four experts for each position, and a router."""
    return trained(T * (4 * w * w + 2 * 3 * w * F + 4 * w + w * V) + attention(w))


def bert_flops(w: int) -> float:
    """A head of a square layer before the vocabulary."""
    return trained(T * (5 * w * w + 2 * w * F + w * V) + attention(w))


def t5_flops(w: int) -> float:
    """An encoder layer and a decoder layer with cross-attention."""
    return trained(T * (12 * w * w + 2 * 2 * w * F + w * V) + 3 * attention(w))


def mamba_flops(w: int, state: int = 4, kernel: int = 4) -> float:
    """Projections, a depthwise convolution whose padded ends are computed too, and the scan's read-out."""
    inner, rank = 2 * w, -(-w // 16)
    projections = T * (
        w * 2 * inner + inner * (rank + 2 * state) + rank * inner + inner * w + w * V
    )
    return trained(projections + (T + kernel - 1) * inner * kernel + T * inner * state)


def vit_flops(w: int, patches: int = 4, pixels: int = 48) -> float:
    """The class token reads the patches; pixels need no gradient."""
    n = patches + 1
    rest = n * (4 * w * w + 2 * w * F) + attention(w, n * n) + 4 * w
    return trained(rest) + 4 * patches * pixels * w


@kind("GPT-2", gpt2_flops, units=KEPT - 1, told="shifted_labels lengths")
def gpt2() -> dict[str, Any]:
    def make(width: int) -> Any:
        config = hf.GPT2Config(**TEXT, n_embd=width, n_layer=1, n_head=2, n_positions=16)
        return hf.AutoModelForCausalLM.from_config(config)

    return {"model_cls": make, "dataset": padded()}


@kind("Llama", llama_flops, units=KEPT - 1, told="shifted_labels lengths")
def llama() -> dict[str, Any]:
    def make(width: int) -> Any:
        return hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED, hidden_size=width))

    return {"model_cls": make, "dataset": padded()}


@kind("Mistral", llama_flops, units=KEPT - 1, told="shifted_labels lengths")
def mistral() -> dict[str, Any]:
    def make(width: int) -> Any:
        return hf.MistralForCausalLM(hf.MistralConfig(**GROUPED, hidden_size=width))

    return {"model_cls": make, "dataset": padded()}


@kind(
    "Mixtral",
    mixtral_flops,
    units=KEPT - 1,
    told="shifted_labels lengths",
    says="4, of which a position passes 2)",
)
def mixtral() -> dict[str, Any]:
    def make(width: int) -> Any:
        experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
        return hf.MixtralForCausalLM(hf.MixtralConfig(**GROUPED, hidden_size=width, **experts))

    return {"model_cls": make, "dataset": padded()}


@kind("Mamba", mamba_flops, units=KEPT - 1, told="shifted_labels lengths")
def mamba() -> dict[str, Any]:
    def make(width: int) -> Any:
        return hf.MambaForCausalLM(
            hf.MambaConfig(**TEXT, hidden_size=width, state_size=4, num_hidden_layers=1)
        )

    return {"model_cls": make, "dataset": padded()}


@kind("BERT, masked tokens", bert_flops, units=3.0)
def bert() -> dict[str, Any]:
    def make(width: int) -> Any:
        config = hf.BertConfig(**TEXT, **LAYERS, hidden_size=width, max_position_embeddings=16)
        return hf.BertForMaskedLM(config)

    return {"model_cls": make, "dataset": masked()}


@kind("T5", t5_flops, units=KEPT, told="lengths")
def t5() -> dict[str, Any]:
    def make(width: int) -> Any:
        config = hf.T5Config(
            **TEXT, d_model=width, d_ff=F, d_kv=width // 2, num_layers=1, num_heads=2,
            decoder_start_token_id=0,
        )  # fmt: skip
        return hf.T5ForConditionalGeneration(config)

    return {"model_cls": make, "dataset": padded()}


@kind("BART", t5_flops, units=KEPT, told="lengths")
def bart() -> dict[str, Any]:
    def make(width: int) -> Any:
        sides = {f"{side}_{name}": value for side in ("encoder", "decoder")
                 for name, value in (("ffn_dim", F), ("layers", 1), ("attention_heads", 2))}  # fmt: skip
        return hf.BartForConditionalGeneration(
            hf.BartConfig(**TEXT, **sides, d_model=width, max_position_embeddings=32)
        )

    return {"model_cls": make, "dataset": padded()}


@kind("ViT", vit_flops)
def vit() -> dict[str, Any]:
    def make(width: int) -> Any:
        return hf.ViTForImageClassification(
            hf.ViTConfig(**LAYERS, hidden_size=width, image_size=8, patch_size=4, num_labels=4)
        )

    x = points(2000, 3 * 64)
    rows = zip(x.view(-1, 3, 8, 8), classes(x), strict=True)
    return {"model_cls": make, "dataset": [{"pixel_values": p, "labels": y} for p, y in rows]}
