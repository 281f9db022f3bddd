"""Fifty files as tools and people write them, all of one sweep whose numbers are known.

Headings and units are those of each tool's own source, which is named beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flops_fit.laws import Hoffmann

LAW = Hoffmann(E=1.8, A=400.0, B=1500.0, alpha=0.34, beta=0.33)
SPENT = np.repeat([1e18, 3e18, 1e19, 3e19, 1e20], 5)
_SHARE = 6.4  # C/(N·D): attention counts in
N = np.round(LAW.optimal(SPENT).params * np.tile(np.geomspace(0.3, 3.3, 5), 5))
D = np.round(SPENT / (_SHARE * N) / 2**19) * 2**19
C = _SHARE * N * D
_NOISE = np.random.default_rng(7).normal(size=len(N))
LOSS = LAW.loss(N, D) * np.exp(0.002 * _NOISE)
RUNS = len(N)
_NAMES = [f"run-{i:02}" for i in range(RUNS)]
_BATCH, _LENGTH = 256.0, 2048.0
_STEPS = D / (_BATCH * _LENGTH)

Columns = Mapping[str, Any]


@dataclass(frozen=True)
class File:
    """A file: its name, its bytes, and what is to be read from it, or is said where it is refused."""

    name: str
    content: bytes
    flops: str = "spent"  # "budget" and "6ND" too
    derived: bool = False  # no tokens: D = C/(6N)
    loss: float = 1.0  # the factor on LOSS
    rtol: float = 1e-4  # of N, D and C: labels are rounded
    refused: tuple[str, ...] = ()  # words of the message
    mapping: Mapping[str, str] = field(default_factory=dict)  # that the message proposes


FILES: dict[str, File] = {}


def _add(tool: str, name: str, content: str | bytes, **expected: Any) -> None:
    data = content.encode() if isinstance(content, str) else content
    FILES[tool] = File(name, data, **expected)


def _rows(columns: Columns) -> list[dict[str, Any]]:
    whole = {k: np.broadcast_to(np.asarray(v, dtype=object), (RUNS,)) for k, v in columns.items()}
    return [{k: v[i] for k, v in whole.items()} for i in range(RUNS)]


def _text(rows: Iterable[Sequence[Any]], between: str = ",") -> str:
    def cell(value: Any) -> str:
        shown = f"{value:.12g}" if isinstance(value, float) else str(value)
        return f'"{shown}"' if between in shown and between == "," else shown

    return "".join(between.join(map(cell, row)) + "\n" for row in rows)


def _csv(columns: Columns, between: str = ",") -> str:
    rows = _rows(columns)
    return _text([list(columns), *(list(row.values()) for row in rows)], between)


def _label(value: float) -> str:
    for factor, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.0f}"


def _labels(values: Any) -> list[str]:
    return [_label(float(v)) for v in values]


# What trainers write for each run.

_add(
    "nanochat, results.csv", "results.csv",  # runs/scaling_laws.sh
    _csv({
        "flops_budget": SPENT, "depth": 12, "model_dim": 768, "params_wte": N / 9,
        "params_value_embeds": N / 7, "params_lm_head": N / 9, "params_transformer": N / 2,
        "params_scalars": 28, "params_total": N, "num_iterations": _STEPS, "tokens_trained": D,
        "val_bpb": LOSS / 3, "core_score": 0.11, "train_time_sec": 815,
    }),
    flops="budget", loss=1 / 3,
)  # fmt: skip
_add(
    "nanochat, first version", "results.csv",
    _csv({
        "flops_budget": SPENT, "depth": 12, "model_dim": 768, "num_params": N,
        "num_scaling_params": N / 2, "num_iterations": _STEPS, "tokens_trained": D,
        "param_data_ratio": 20.0, "val_bpb": LOSS / 3, "core_score": 0.1, "train_time_sec": 800,
    }),
    flops="budget", loss=1 / 3,
)  # fmt: skip
_add(
    "CS336, isoflops_curves.json", "isoflops_curves.json",  # data/isoflops_curves.json
    json.dumps(_rows({"parameters": N, "compute_budget": SPENT, "final_loss": LOSS})),
    flops="budget", derived=True,
)  # fmt: skip
_add(
    "transformers Trainer in W&B", "wandb_export.csv",  # integrations/integration_utils.py
    _csv({
        "Name": _NAMES, "State": "finished", "Runtime": 3600, "model/num_parameters": N,
        "per_device_train_batch_size": 8, "learning_rate": 3e-4, "num_train_epochs": 1,
        "train/num_input_tokens_seen": D, "train/total_flos": C, "train/epoch": 1.0,
        "train/global_step": _STEPS, "train/loss": LOSS + 0.1, "train/train_loss": LOSS + 0.3,
        "eval/loss": LOSS, "eval/runtime": 10.1, "eval/samples_per_second": 800.5,
    }),
)  # fmt: skip
_add(
    "transformers, all_results.json by run", "all_results.json",  # trainer_pt_utils.save_metrics
    json.dumps({
        name: {
            "epoch": 1.0, "num_parameters": row["N"], "num_input_tokens_seen": row["D"],
            "total_flos": row["C"], "train_loss": row["L"] + 0.2, "eval_loss": row["L"],
            "eval_runtime": 9.3, "train_runtime": 3600.0, "train_samples": 81920,
            "train_samples_per_second": 22.7, "perplexity": float(np.exp(row["L"])),
        }
        for name, row in zip(_NAMES, _rows({"N": N, "D": D, "C": C, "L": LOSS}), strict=True)
    }),
)  # fmt: skip
_add(
    "transformers, trainer states in one list", "states.json",  # trainer_callback.TrainerState
    json.dumps([
        {
            "num_parameters": row["N"], "num_input_tokens_seen": row["D"], "total_flos": row["C"],
            "epoch": 1.0, "global_step": 200, "max_steps": 200, "eval_steps": 100,
            "log_history": [
                {"epoch": 0.5, "loss": row["L"] + 1, "learning_rate": 1e-4, "step": 100},
                {"epoch": 0.5, "eval_loss": row["L"] + 0.5, "eval_runtime": 3.0, "step": 100},
                {"epoch": 1.0, "eval_loss": row["L"], "eval_runtime": 3.0, "step": 200},
            ],
        }
        for row in _rows({"N": N, "D": D, "C": C, "L": LOSS})
    ]),
)  # fmt: skip
_add(
    "torchtitan", "runs.csv",  # torchtitan/components/metrics.py
    _csv({
        "run": _NAMES, "model_params": N, "step": _STEPS, "n_tokens_seen": D,
        "loss_metrics/global_avg_loss": LOSS + 0.1, "loss_metrics/global_max_loss": LOSS + 0.5,
        "validation_metrics/loss": LOSS, "throughput(tps)": 5000.0, "tflops": 310.5, "mfu(%)": 41.2,
        "time_metrics/end_to_end(s)": 1.2, "memory/max_active(GiB)": 40.1,
    }),
    flops="6ND",
)  # fmt: skip
_add(
    "Megatron-LM", "megatron.csv",  # megatron/training/training.py; samples are sequences
    _csv({
        "Name": _NAMES, "num_parameters": N, "consumed_train_samples": D / _LENGTH,
        "seq_length": _LENGTH, "lm loss": LOSS + 0.1, "lm loss validation": LOSS,
        "lm loss validation ppl": np.exp(LOSS), "batch-size": _BATCH, "learning-rate": 3e-4,
        "grad-norm": 0.4, "iteration-time": 2.2, "throughput": 180.0,
    }),
    flops="6ND",
)  # fmt: skip
_add(
    "NeMo", "nemo.csv",  # megatron_gpt_model.py, nemo/lightning
    _csv({
        "Name": _NAMES, "n_params": N, "consumed_samples": D / _LENGTH, "seq_length": _LENGTH,
        "global_step": _STEPS, "reduced_train_loss": LOSS + 0.2, "val_loss": LOSS, "epoch": 0,
        "train_step_timing in s": 1.1, "lr": 3e-4, "grad_norm": 0.5,
    }),
    flops="6ND",
)  # fmt: skip
_add(
    "Lightning with the model's size", "metrics.csv",
    _csv({
        "epoch": 0, "step": _STEPS, "n_params": N, "global_batch_size": _BATCH,
        "sequence_length": _LENGTH, "train_loss_step": "", "train_loss_epoch": LOSS + 0.1,
        "val_loss": LOSS,
    }),
    flops="6ND",
)  # fmt: skip
_add(
    "levanter", "levanter.csv",  # levanter/callbacks, eval.py; total_gflops are 1e9 FLOPs
    _csv({
        "Name": _NAMES, "State": "finished", "parameter_count": N, "throughput/total_tokens": D,
        "throughput/total_gflops": C / 1e9, "throughput/gflops_per_second": 1e5,
        "throughput/tokens_per_second": 1e5, "throughput/mfu": 40.0, "eval/loss": LOSS,
        "eval/bpb": LOSS / 3, "eval/macro_loss": LOSS + 0.2, "train/loss": LOSS - 0.1,
        "optim/learning_rate": 1e-5, "global_step": _STEPS,
    }),
)  # fmt: skip
_add(
    "Marin, a summary of an isoflop sweep", "snapshot.csv",  # exp31_isoflop_sweep.py
    _csv({
        "run_name": _NAMES, "run_state": "finished", "budget": SPENT, "budget_label": "1e18",
        "params_label": _labels(N), "params_planned": N, "tokens_planned": D, "batch": 32,
        "lr": 3e-4, "beta2": 0.98, "parameter_count": N, "total_tokens": D,
        "total_gflops": C / 1e9, "achieved_flops": C, "cd_val_loss": LOSS, "eval_step": _STEPS,
    }),
)  # fmt: skip
_add(
    "Marin, speedrun results", "speedrun_results.json",  # experiments/speedrun.py
    json.dumps([
        {
            "compute_budget": {
                "track": "TINY", "flops_budget_for_track": 1e21,
                "flops_6nd": f"{6 * row['N'] * row['D']:.2e}", "within_budget_6nd": True,
            },
            "run_related_info": {
                "num_parameters": row["N"], "total_tokens": row["D"],
                "model_config": {"hidden_dim": 512, "seq_len": 1024},
                "train_config": {"train_batch_size": 256, "num_train_steps": 100},
            },
            "actual_stats": {
                "training_time_in_minutes": 12.0, "final_flops_estimate": "3.1e20",
                "eval/paloma/c4_en/bpb": row["L"] / 3, "lm_eval/averages/macro_avg_acc": 0.3,
            },
        }
        for row in _rows({"N": N, "D": D, "L": LOSS})
    ]),
    flops="6ND", loss=1 / 3, rtol=1e-2,
)  # fmt: skip
_add(
    "OLMo", "olmo.csv",  # olmo/train.py, SpeedMonitor: 1e9 FLOPs
    _csv({
        "Name": _NAMES, "n_params": N, "throughput/total_tokens": D,
        "throughput/total_training_Gflops": C / 1e9,
        "throughput/total_training_log_Gflops": np.log(C / 1e9),
        "throughput/device/tokens_per_second": 1e4, "train/CrossEntropyLoss": LOSS + 0.1,
        "train/Perplexity": np.exp(LOSS + 0.1), "eval/c4_en-validation/CrossEntropyLoss": LOSS,
        "eval/c4_en-validation/Perplexity": np.exp(LOSS), "optim/learning_rate_group0": 1e-5,
    }),
)  # fmt: skip
_add(
    "OLMo ladder", "ladder.csv",  # scripts/scaling/download_wandb_logs.py
    _csv({
        "run": [f"{_label(n)}-{d / n / 20:.2g}xC" for n, d in zip(N, D, strict=True)],
        "num_params": N, "throughput/total_tokens": D, "throughput/total_training_Gflops": C / 1e9,
        "eval/c4_en-validation/CrossEntropyLoss": LOSS, "optim/learning_rate_group0": 0.0,
        "learning_rate_peak": 3e-3, "batch_size_in_tokens": 2.0**19,
    }),
)  # fmt: skip
_add(
    "OLMo-core", "olmo-core.csv",  # train/callbacks/speed_monitor.py: 1e15 FLOPs
    _csv({
        "name": _NAMES, "num_params": N, "throughput/total tokens": D,
        "throughput/total petaflops": C / 1e15, "throughput/device/TPS": 1e4,
        "throughput/device/flopsPS": 3e14, "throughput/device/flopsPS (actual avg)": 2.9e14,
        "train/CE loss": LOSS + 0.1, "train/PPL": np.exp(LOSS), "train/Z loss": 1e-4,
        "eval/lm/pile-validation/CE loss": LOSS, "eval/lm/pile-validation/PPL": np.exp(LOSS),
    }),
)  # fmt: skip
_add(
    "llm-foundry", "foundry.csv",  # composer's loggers
    _csv({
        "Name": _NAMES, "n_params": N, "time/token": D, "time/batch": _STEPS, "time/epoch": 0,
        "loss/train/total": LOSS + 0.1, "metrics/train/LanguageCrossEntropy": LOSS + 0.1,
        "metrics/train/LanguagePerplexity": np.exp(LOSS),
        "metrics/eval/LanguageCrossEntropy": LOSS, "metrics/eval/LanguagePerplexity": np.exp(LOSS),
        "throughput/device/flops_per_sec": 1e14, "throughput/device/mfu": 0.4,
        "throughput/tokens_per_sec": 1e5, "lr-DecoupledAdamW/group0": 1e-4,
    }),
    flops="6ND",
)  # fmt: skip
_add(
    "litgpt", "litgpt.csv",  # litgpt/pretrain.py; tokens are those of one device
    _csv({
        "run": _NAMES, "n_params": N, "loss": LOSS + 0.1, "iter": _STEPS, "step": _STEPS,
        "epoch": 0, "iter_time": 0.1, "remaining_time": 0.0, "tokens": D / 8, "total_tokens": D,
        "learning_rate": 4e-5, "val_loss": LOSS, "val_ppl": np.exp(LOSS), "device/flops_per_sec": 1e14,
        "throughput/device/flops_per_sec": 1e14,
    }),
    flops="6ND",
)  # fmt: skip
_add(
    "open_clip with its model profile", "clip.csv",  # docs/model_profile.csv, evaluate()
    _csv({
        "model": [f"ViT-{i}" for i in range(RUNS)], "image_size": 224, "image_width": 768,
        "embed_dim": 512, "mparams": N / 1e6, "image_mparams": N / 2e6, "text_mparams": N / 3e6,
        "gflops": 14.78, "image_gflops": 8.82, "text_gflops": 5.96, "samples_seen": D,
        "samples_seen_pretty": _labels(D), "val/clip_val_loss": LOSS,
    }),
    flops="6ND",
)  # fmt: skip
_add(
    "Gemstones", "gemstones.csv",  # plotters/plotting_utils.py
    _csv({
        "width": 512, "depth": 12, "params": N, "tokens": D, "FLOPs_6N": C, "FLOPs_per_token": C / D,
        "val_loss": LOSS, "lr_ablation": False, "cooldown": False,
    }),
)  # fmt: skip
_add(
    "nanotron", "nanotron.csv",  # src/nanotron/trainer.py, train_step_logs
    _csv({
        "Name": _NAMES, "num_params": N, "consumed_tokens": D, "global_batch_size": _BATCH,
        "elapsed_time_per_iteration_ms": 900.0, "tokens_per_sec": 1e6, "tokens_per_sec_per_gpu": 1e5,
        "lm_loss": LOSS, "lr": 3e-5, "model_tflops_per_gpu": 310.0, "hardware_tflops_per_gpu": 320.0,
        "grad_norm": 0.3,
    }),
    flops="6ND",
)  # fmt: skip
_add(
    "lingua", "metrics.jsonl",  # apps/main/train.py
    "".join(
        json.dumps({
            "n_params": r["N"], "global_step": 100, "acc_step": 0, "speed/wps": 1e5,
            "speed/FLOPS": 3.1e14, "speed/curr_iter_time": 0.3, "optim/grad_norm": 0.2,
            "optim/lr": 1e-6, "optim/total_tokens": r["D"], "loss/out": r["L"],
        }) + "\n"
        for r in _rows({"N": N, "D": D, "L": LOSS})
    ),
    flops="6ND",
)  # fmt: skip
_add(
    "GPT-NeoX", "neox.csv",  # megatron/training.py, tb_wandb_log
    _csv({
        "name": _NAMES, "params": N, "train_tokens": D, "train/lm_loss": LOSS + 0.1,
        "validation/lm_loss": LOSS, "validation/lm_loss_ppl": np.exp(LOSS),
        "runtime/samples_per_sec": 90.0, "runtime/iteration_time": 2.0,
        "runtime/flops_per_sec_per_gpu": 1.2e14, "train/learning_rate": 1e-5,
    }),
    flops="6ND",
)  # fmt: skip
_add(
    "MaxText", "maxtext.csv",  # MaxText/train.py, metric_logger.py
    _csv({
        "run_name": _NAMES, "num_model_parameters": N, "tokens": D, "learning/loss": LOSS + 0.1,
        "learning/grad_norm": 0.2, "learning/total_weights": 524288, "perf/step_time_seconds": 1.0,
        "perf/per_device_tflops": 200.0, "perf/per_device_tflops_per_sec": 190.0,
        "perf/per_device_tokens_per_sec": 8e3, "eval/avg_loss": LOSS, "eval/total_weights": 1e6,
    }),
    flops="6ND",
)  # fmt: skip
_add(
    "Gadre et al., exp_data/models", "models.json",  # mlfoundations/scaling
    json.dumps([
        {
            "name": f"c4_original-{i}", "dataset_name": "c4_original",
            "hyperparameters": {
                "params": r["N"], "params_no_embed": 0.8 * r["N"], "tokens": r["D"],
                "chinchilla_multiplier": 1.0, "lr": 3e-3, "seed": 124,
            },
            "results": {"c4_val": {
                "loss": r["L"], "loss_tokens_lower_95": r["L"] - 0.01,
                "loss_tokens_upper_95": r["L"] + 0.01, "sequences": 16_000,
            }},
        }
        for i, r in enumerate(_rows({"N": N, "D": D, "L": LOSS}))
    ]),
    flops="6ND",
)  # fmt: skip

# What papers and their digitised figures hold.

_add(
    "Open LLM table with a loss", "base_llm.csv",  # ObsScaling's headings
    _csv({
        "Model": _NAMES, "Model Family": "x", "Model Size (B)": N / 1e9,
        "Pretraining Data Size (T)": D / 1e12, "FLOPs (1E21)": C / 1e21, "MMLU": 0.3, "Loss": LOSS,
    }),
)  # fmt: skip
_add(
    "Hoffmann et al. as digitised",
    "svg_extracted_data.csv",  # Besiroglu et al.
    _csv({"Model Size": N, "Training Tokens": D, "Training FLOP": C, "loss": LOSS}),
)
_add(
    "Porian et al.", "experiment_results.csv",
    _csv({
        "hparams": "tuned", "warmup": "short", "decay": "chinchilla", "param_count": "standard",
        "params": N, "tokens": D, "flops": C, "loss": LOSS,
    }),
)  # fmt: skip
_add(
    "DeepSeek's figure as typed", "deepseek.csv",
    _csv({
        "C (FLOPs)": [f"{c:.3e}" for c in C], "Params": _labels(N), "Tokens": _labels(D),
        "Bits-Per-Byte": LOSS / 3,
    }),
    loss=1 / 3, rtol=6e-3,
)  # fmt: skip
_add(
    "Markdown of a model card", "card.md",
    "# Models\n\nAll were trained on the Pile.\n\n"
    + _text([
        ["", " Model ", " Parameters ", " Training tokens ", " FLOPs ", " Pile test loss ", ""],
        ["", "---", "---:", "---:", "---:", "---:", ""],
        *(
            ["", f" **{_label(n)}** ", f" {_label(n)} ", f" {_label(d)} ", f" {c:.2e} ", f" {y:.4f} ", ""]
            for n, d, c, y in zip(N, D, C, LOSS, strict=True)
        ),
    ], "|"),
    rtol=6e-3,
)  # fmt: skip

# What trackers and spreadsheets export.

_add(
    "W&B's export of runs", "wandb_export_2025-10-01T10_11_12.csv",
    _csv({
        "Name": _NAMES, "State": "finished", "Notes": "-", "User": "someone", "Tags": "",
        "Created": "2025-10-01T10:11:12.000Z", "Runtime": 3600, "Sweep": "", "ID": _NAMES,
        "config.n_params": N, "config.tokens": D, "config.lr": 3e-4, "summary._step": _STEPS,
        "summary.train/loss": LOSS - 0.1, "summary.val/loss": LOSS, "summary.mfu": 0.4,
    }),
    flops="6ND",
)  # fmt: skip
_add(
    "W&B's API, config and summary", "runs.json",
    json.dumps([
        {
            "name": f"run-{i}", "state": "finished",
            "config": {
                "n_params": {"desc": None, "value": r["N"]},
                "train_tokens": {"desc": None, "value": r["D"]}, "_wandb": {"value": {"m": []}},
            },
            "summary": {"val/loss": r["L"], "train/loss": r["L"] + 0.1, "_runtime": 3600,
                        "_step": 100, "_wandb": {"runtime": 3600}},
        }
        for i, r in enumerate(_rows({"N": N, "D": D, "L": LOSS}))
    ]),
    flops="6ND",
)  # fmt: skip
_add(
    "MLflow's search_runs", "runs.csv",
    _csv({
        "run_id": _NAMES, "experiment_id": 1, "status": "FINISHED", "artifact_uri": "mlflow:/1",
        "start_time": "2025-10-01 10:11:12+00:00", "metrics.val_loss": LOSS,
        "metrics.train_loss": LOSS + 0.1, "metrics.total_flops": C, "params.n_params": N,
        "params.n_tokens": D, "params.lr": "0.0003", "tags.mlflow.runName": _NAMES,
    }),
)  # fmt: skip
_add(
    "a European spreadsheet", "Läufe.csv",
    b"\xef\xbb\xbf"
    + _text([
        ["Meine Läufe", "", "", ""], ["Parameter (Mio)", "Tokens (Mrd)", "FLOPs", "Val Loss"],
        *(
            [f"{n / 1e6:.6f}".replace(".", ","), f"{d / 1e9:.6f}".replace(".", ","),
             f"{c:.5e}".replace(".", ","), f"{y:.6f}".replace(".", ",")]
            for n, d, c, y in zip(N, D, C, LOSS, strict=True)
        ),
        ["", "", "", ""],
    ], ";").encode(),
)  # fmt: skip
_add(
    "Excel's Unicode text, with thousands separators", "runs.txt",
    _text([
        ["N", "D", "C", "loss", "comment"],
        *(
            [f"{n:,.0f}", f"{d:,.0f}", f"{c:.6e}", f"{y:.6f}", "#N/A"]
            for n, d, c, y in zip(N, D, C, LOSS, strict=True)
        ),
    ], "\t").encode("utf-16"),
)  # fmt: skip
_add(
    "a sheet with a row of units", "sheet.csv",
    "Sweep of autumn,,,\n"
    + _text([
        ["Params", "Tokens", "Compute", "Val loss"], ["(M)", "(B)", "(EFLOPs)", "(nats)"],
        *zip(*(map(float, v) for v in (N / 1e6, D / 1e9, C / 1e18, LOSS)), strict=True),
    ]),
)  # fmt: skip

_add(
    "MLflow's server, runs/search", "search.json",  # mlflow/protos/service.proto
    json.dumps({"runs": [
        {
            "info": {"run_id": name, "run_name": name, "status": "FINISHED", "end_time": 17e11},
            "data": {
                "metrics": [{"key": "val_loss", "value": row["L"], "timestamp": 1, "step": 9}],
                "params": [
                    {"key": k, "value": str(row[v])}
                    for k, v in (("num_params", "N"), ("train_tokens", "D"), ("total_flos", "C"))
                ],
                "tags": [{"key": "mlflow.user", "value": "me"}],
            },
        }
        for name, row in zip(_NAMES, _rows({"N": N, "D": D, "C": C, "L": LOSS}), strict=True)
    ]}),
)  # fmt: skip
_add(
    "W&B's API example, dicts in cells", "project.csv",  # docs: summary_list, config_list, name_list
    _csv({
        "": list(range(RUNS)),
        "summary": [str({"val/loss": float(y), "tokens": float(d)}) for y, d in zip(LOSS, D, strict=True)],
        "config": [str({"n_params": float(n), "lr": 3e-4}) for n in N], "name": _NAMES,
    }),
    flops="6ND",
)  # fmt: skip
_add(
    "Neptune's runs table", "neptune.csv",  # fields sys/…, and (last) behind a series
    _csv({
        "sys/id": _NAMES, "sys/state": "Inactive", "sys/creation_time": "2025-03-01T10:00:00Z",
        "parameters/n_params": N, "parameters/lr": 3e-4, "metrics/tokens (last)": D,
        "metrics/val/loss (last)": LOSS, "metrics/train/loss (last)": LOSS - 0.05,
    }),
    flops="6ND",
)  # fmt: skip
_add(
    "Comet's experiments table", "comet.csv",
    _csv({
        "Name": _NAMES, "Server end time": "2025-01-03 10:00", "Duration": "01:22:33", "Tags": "",
        "trainable_parameters": N, "total_tokens": D, "val_loss": LOSS, "train_loss": LOSS + 0.1,
    }),
    flops="6ND",
)  # fmt: skip
_add(
    "ClearML's experiments table", "clearml.csv",
    _csv({
        "TYPE": "Training", "NAME": _NAMES, "STATUS": "Completed", "ITERATION": _STEPS,
        "hyperparams.Args.n_params": N, "hyperparams.Args.tokens": D,
        "validation > loss (LAST)": LOSS,
    }),
    flops="6ND",
)  # fmt: skip
_add(
    "columns of pandas in two levels", "levels.csv",
    _text([
        ["run", "size", "size", "eval"], ["", "params", "tokens", "loss"], ["name", "", "", ""],
        *([a, *map(float, v)] for a, *v in zip(_NAMES, N, D, LOSS, strict=True)),
    ]),
    flops="6ND",
)  # fmt: skip
_add(
    "a sheet with merged cells, sums and notes", "blocks.csv",
    _text([
        ["Budget", "Params (M)", "Tokens (B)", "Val loss"],
        *(
            ["" if i % 5 else f"{SPENT[i]:.0e}", float(N[i] / 1e6), float(D[i] / 1e9), float(LOSS[i])]
            for i in range(RUNS)
        ),
        ["Total", float(N.sum() / 1e6), float(D.sum() / 1e9), ""],
        ["", "", "", ""], ["Notes: cosine decay, warmup of one per cent", "", "", ""],
    ]),
    flops="budget",
)  # fmt: skip
_add(
    "Kaplan's units", "kaplan.csv",
    _csv({"Non-embedding params": N, "Compute (PF-days)": C / 8.64e19, "Test Loss": LOSS}),
    derived=True,
)  # fmt: skip

# What lacks something that cannot be guessed.

_add(
    "TensorBoard's CSV of one curve", "run-val_loss.csv",
    _text([
        ["Wall time", "Step", "Value"],
        *([1.7e9 + i, 100 * i, float(y)] for i, y in enumerate(LOSS)),
    ]),
    refused=("a chart exported from TensorBoard", "curves="),
)  # fmt: skip
_add(
    "Open LLM table without a loss", "base_llm_benchmark_eval.csv",
    _csv({
        "Model": _NAMES, "Model Family": "x", "Model Size (B)": N / 1e9,
        "Pretraining Data Size (T)": D / 1e12, "FLOPs (1E21)": C / 1e21, "MMLU": 0.3, "ARC-C": 0.4,
    }),
    refused=("loss",),
)  # fmt: skip
_add(
    "Epoch AI's models", "all_ai_models.csv",
    _csv({
        "Model": _NAMES, "Organization": "x", "Publication date": "2025-01-01", "Parameters": N,
        "Training compute (FLOP)": C, "Training dataset size (total)": D, "Epochs": 1.0,
    }),
    refused=("loss",),
)  # fmt: skip
_add(
    "headings of one's own", "mine.csv",
    _csv({"weights": N, "corpus_tokens_used": D, "entropy_at_end": LOSS, "wd": 0.1}),
    refused=("params", "tokens", "loss"), flops="6ND",
    mapping={"params": "weights", "tokens": "corpus_tokens_used", "loss": "entropy_at_end"},
)  # fmt: skip
_add(
    "steps and the batch of one device", "devices.csv",
    _csv({
        "params": N, "steps": _STEPS, "batch_size": 4, "gradient_accumulation_steps": 8,
        "num_gpus": 8, "seq_len": _LENGTH, "loss": LOSS,
    }),
    refused=("tokens", "may be a part of the batch"),
)  # fmt: skip
_add(
    "a column of losses for each length", "wide.csv",
    _csv({"params": N, **{f"loss_{k}B": LOSS for k in (1, 2, 4, 8)}}),
    refused=("tokens", "give each loss a row"),
)  # fmt: skip
