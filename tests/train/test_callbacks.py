"""What other trainers train becomes rows that a fit reads."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

import flops_fit
from tests.conftest import MLP, Blobs, cross_entropy

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
    assert callback.forecast is None, "five readings are too few"


@pytest.mark.filterwarnings("ignore")
def test_flops_may_be_given(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    callback = flops_fit.HFCallback(path, lambda model: 6 * model.num_parameters())
    train(tmp_path, 8, 2, callback, run_name="=1+1")
    (row,) = csv.DictReader(path.read_text().splitlines())
    assert float(row["flops"]) == 6 * int(row["params"]) * int(row["tokens"])
    assert (row["state"], row["steps"], row["batch_size"]) == ("completed", "2", "4")
    assert row["run"] == "'=1+1", "no spreadsheet runs it"


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_lightning_is_a_row_with_what_it_saw_and_cost(
    tmp_path: Path, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schedule of its LambdaLR says where it will end."""
    lightning = pytest.importorskip("pytorch_lightning")

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = MLP(8)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            loss = cross_entropy(self.net(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_loss", cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 60)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def trained(callback: Any, steps: int) -> Any:
        trainer = lightning.Trainer(
            max_steps=steps, limit_val_batches=1, logger=False, accelerator="cpu", log_every_n_steps=2,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[callback], val_check_interval=20, max_epochs=-1,
        )  # fmt: skip
        loader = torch.utils.data.DataLoader(blobs, batch_size=4)
        trainer.fit(Module(), loader, loader)
        return trainer

    path = tmp_path / "runs.csv"
    callback = flops_fit.LightningCallback(path, run="=one")
    monkeypatch.setattr("flops_fit.train.callbacks._FORECAST_SECONDS", 0.0)
    trainer = trained(callback, 60)
    (row,) = csv.DictReader(path.read_text().splitlines())
    assert (row["params"], row["tokens"], row["steps"]) == ("160", "240", "60")
    assert float(row["flops"]) == 240 * (6 * 160 - 2 * 16 * 8)
    assert float(row["loss"]) == pytest.approx(float(trainer.callback_metrics["val_loss"]))
    assert row["run"] == "'=one", "no spreadsheet runs it"
    low, high = callback.forecast.interval
    assert low < callback.forecast.value < high
    assert "expected_loss" in trainer.callback_metrics
