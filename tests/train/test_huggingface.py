"""What Hugging Face's own Trainer trains becomes rows that a fit reads."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

import flops_fit

transformers = pytest.importorskip("transformers")


def samples(n: int = 40, length: int = 12) -> list[dict[str, torch.Tensor]]:
    """The last i % 4 labels of a row are not counted."""
    rows = []
    for i in range(n):
        ids = (torch.arange(length) * (i + 1)) % 31
        labels = ids.clone()
        labels[length - i % 4 :] = -100
        rows.append({"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)})
    return rows


def config(width: int) -> Any:
    return transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=width,
        intermediate_size=2 * width,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_hidden_layers=1,
    )


def train(folder: Path, width: int, steps: int, callback: Any, **more: Any) -> Any:
    arguments = transformers.TrainingArguments(
        str(folder / f"w{width}"),
        max_steps=steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_steps=2,
        save_strategy="no",
        seed=0,
        **more,
    )
    trainer = transformers.Trainer(
        transformers.LlamaForCausalLM(config(width)),
        arguments,
        train_dataset=samples(),
        eval_dataset=samples(8),
        callbacks=[callback],
    )
    trainer.train()
    trainer.evaluate()
    return trainer


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_a_trainer_is_a_row_with_what_it_saw_and_cost(tmp_path: Path) -> None:
    """An evaluation within a run adds none, nor does a second one at its end."""
    path = tmp_path / "runs.csv"
    callback = flops_fit.HFCallback(path)
    model = train(tmp_path, 16, 10, callback, eval_strategy="steps", eval_steps=5).model
    table = flops_fit.RunTable.read(path)
    assert table.params.tolist() == [sum(p.numel() for p in model.parameters())]
    # Ten steps of four samples see each of forty once: eleven predictions, less those left out.
    assert table.tokens.tolist() == [sum(11 - i % 4 for i in range(40))]
    length, width = 12, 16
    matrices = 4 * width**2 + 3 * 2 * width**2 + 32 * width
    forward = 2 * length * matrices + 4 * length**2 * width
    assert table.flops.tolist() == [40 * 3 * forward]


@pytest.mark.filterwarnings("ignore")
def test_flops_may_be_given(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    callback = flops_fit.HFCallback(path, lambda model: 6 * model.num_parameters())
    train(tmp_path, 8, 2, callback, run_name="=1+1")
    (row,) = csv.DictReader(path.read_text().splitlines())
    assert float(row["flops"]) == 6 * int(row["params"]) * int(row["tokens"])
    assert (row["state"], row["steps"], row["batch_size"]) == ("completed", "2", "4")
    assert row["run"] == "'=1+1", "no spreadsheet runs it"
