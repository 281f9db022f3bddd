"""Models of the transformers package, with padded batches and their attention masks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flops_fit import plan_sweep, run_sweep

pytest.importorskip("transformers")
import transformers as hf

pytestmark = pytest.mark.filterwarnings("ignore")

VOCABULARY, LENGTH = 64, 12
TEXT = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
LAYERS = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
GROUPED = {**TEXT, **LAYERS, "num_key_value_heads": 2}

Factory = Callable[[int], Any]
LANGUAGE: dict[str, Factory] = {
    "gpt2": lambda w: hf.GPT2LMHeadModel(
        hf.GPT2Config(**TEXT, n_embd=w, n_layer=1, n_head=2, n_positions=16)
    ),
    "llama": lambda w: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED, hidden_size=w)),
    "mistral": lambda w: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED, hidden_size=w)),
    "mixtral": lambda w: hf.MixtralForCausalLM(
        hf.MixtralConfig(**GROUPED, hidden_size=w, num_local_experts=4, num_experts_per_tok=2)
    ),
    "mamba": lambda w: hf.MambaForCausalLM(
        hf.MambaConfig(**TEXT, hidden_size=w, state_size=4, num_hidden_layers=1)
    ),
    "bert": lambda w: hf.BertForMaskedLM(
        hf.BertConfig(**TEXT, **LAYERS, hidden_size=w, max_position_embeddings=16)
    ),
    "t5": lambda w: hf.T5ForConditionalGeneration(
        hf.T5Config(
            **TEXT,
            d_model=w,
            d_ff=24,
            d_kv=w // 2,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
        )
    ),
    "bart": lambda w: hf.BartForConditionalGeneration(
        hf.BartConfig(
            **TEXT,
            d_model=w,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            max_position_embeddings=32,
        )
    ),
}


def padded(n: int = 300) -> list[dict[str, torch.Tensor]]:
    """Sequences of 12 tokens, the last three of every other one padding."""
    g = torch.Generator().manual_seed(0)
    samples = []
    for i in range(n):
        ids = torch.randint(2, VOCABULARY, (LENGTH,), generator=g)
        mask = (torch.arange(LENGTH) < LENGTH - 3 * (i % 2)).long()
        labels = torch.where(mask > 0, ids, -100)
        samples.append({"input_ids": ids * mask, "attention_mask": mask, "labels": labels})
    return samples


def plan_of(factory: Factory, data: Any, budget: float = 1e8, **others: Any) -> Any:
    return plan_sweep(
        factory,
        "w",
        dataset=data,
        compute_budgets=[budget],
        sizes=[16],
        batch_size=4,
        hparams={"lr": 1e-3},
        **others,
    )


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_family_with_masks_is_planned_and_trained(name: str, tmp_path: Path) -> None:
    plan = plan_of(LANGUAGE[name], padded())
    assert not [d for d in plan.diagnostics if "formula" in d.message]
    experts = [d for d in plan.diagnostics if "4, of which a position passes 2)" in d.message]
    assert len(experts) == sum("experts" in d.message for d in plan.diagnostics)
    assert len(experts) == (name == "mixtral")
    (run,) = run_sweep(plan, output_dir=tmp_path, progress=False)
    assert (run.state, run.reason) == ("completed", "")


def test_llama_with_a_mask_costs_its_closed_form() -> None:
    """Four projections, a gated MLP, the head, and attention over all pairs, three passes each."""
    w, middle = 16, 24
    per_position = 4 * w * w + 3 * w * middle + w * VOCABULARY
    sample = 3 * 2 * (LENGTH * per_position + 2 * LENGTH * LENGTH * w)
    (experiment,) = plan_of(LANGUAGE["llama"], padded()).experiments
    assert experiment.flops_per_sample == pytest.approx(sample)


def test_a_vision_transformer_is_planned_and_trained(tmp_path: Path) -> None:
    def vit(w: int) -> Any:
        return hf.ViTForImageClassification(
            hf.ViTConfig(**LAYERS, hidden_size=w, image_size=8, patch_size=4, num_labels=2)
        )

    g = torch.Generator().manual_seed(0)
    images = [
        {"pixel_values": torch.randn(3, 8, 8, generator=g) + i % 2, "labels": torch.tensor(i % 2)}
        for i in range(300)
    ]
    plan = plan_of(vit, images, 5e7)
    (run,) = run_sweep(plan, output_dir=tmp_path, progress=False)
    assert (run.state, run.reason) == ("completed", "")
