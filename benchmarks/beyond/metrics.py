"""Benchmark scores of the ladder of OLMo 2 (arXiv:2412.04403): 7B and 13B from runs of up to 3B."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from benchmarks.common.report import Goal, Result, Table, at_least, at_most
from flops_fit.fit import MetricFit, metric

FILE = "olmo_ladder2025.csv"
_SIZES = {
    "190M": 190354176, "370M": 371262464, "760M": 758220288, "1B": 1279395840, "3B": 3169537280,
}  # fmt: skip
# Annealed, on other data than the ladder: N and D.
_TARGETS = {
    "peteish7_eval_anneal": (6887575552, 3945065873408),
    "peteish13_eval_final": (13202396160, 5000088518656),
}
# The eight tasks of the paper, MMLU in its four parts, with the score of guessing.
TASKS = {
    "mmlu_stem_test": 0.25, "mmlu_humanities_test": 0.25, "mmlu_social_sciences_test": 0.25,
    "mmlu_other_test": 0.25, "hellaswag_val": 0.25, "arc_easy_test": 0.25, "arc_challenge_test": 0.25,
    "csqa_val": 0.2, "openbookqa_test": 0.25, "piqa_val": 0.5, "socialiqa_val": 1 / 3,
}  # fmt: skip
ROUTES = ("answer", "two steps", "direct")
_FIRST = {"two steps": 0.059, "direct": 0.075}  # what each route was off by at first
Row = dict[str, float | str]
Scores = dict[str, list[tuple[float, bool]]]


def _rows(folder: Path) -> tuple[list[Row], list[Row]]:
    """The ladder and the targets, with N, D and the columns of the tasks."""
    ladder, targets = [], []
    with (folder / FILE).open(newline="") as file:
        for line in csv.DictReader(file):
            if (size := line["size"]) in _SIZES:
                into, N, D = ladder, _SIZES[size], float(line["throughput/total_tokens"])
            elif line["run"] in _TARGETS:
                into, (N, D) = targets, _TARGETS[line["run"]]
            else:
                continue
            row: Row = {"name": line["run"], "size": size, "params": float(N), "tokens": float(D)}
            for task in TASKS:
                row[f"{task}_bpb"] = float(line[f"eval/downstream_bpb/{task}_rc_5shot_bpb"])
                row[task] = float(line[f"eval/downstream/{task}_rc_5shot_len_norm"])
            into.append(row)
    return ladder, targets


def _judge(fit: MetricFit, rows: list[Row], task: str, into: Scores) -> list[str]:
    """Adds relative errors, and whether intervals hold; the answers as text."""
    shown = []
    for row in rows:
        told = fit.predict((float(row["params"]), float(row["tokens"])))
        true = float(row[task])
        shown.append(f"{told.value:.3f} / {true:.3f}")
        for name in ROUTES:
            value, span = (told.value, told.interval) if name == "answer" else told.routes[name]
            held = span is not None and span[0] <= true <= span[1]
            into.setdefault(name, []).append((abs(value / true - 1), held))
    return shown


def metrics(folder: Path, quick: bool) -> Result:
    """Errors and coverage at the two targets, and inside the ladder with its largest sizes held out."""
    ladder, targets = _rows(folder)
    beyond: Scores = {}
    inside: Scores = {}
    rows = []
    for task, chance in TASKS.items():
        fit = metric(ladder, task, chance=chance, loss=f"{task}_bpb")
        rows.append((task, fit.headline, fit.trust, *_judge(fit, targets, task, beyond)))
        for top in (("3B",),) if quick else (("3B",), ("3B", "1B")):
            kept = [r for r in ladder if r["size"] not in top]
            held = [r for r in ladder if r["size"] in top]
            part = metric(kept, task, chance=chance, loss=f"{task}_bpb")
            if part.trust != "no":
                _judge(part, held, task, inside)
    columns = ("task", "answers", "trust", "7B, 4T: predicted / measured", "13B, 5T")
    tables = [Table("Scores of 7B and 13B from runs of up to 3B", columns, tuple(rows))]
    goals: list[Goal] = []
    lines = []
    for where, scores in (("7B and 13B", beyond), ("sizes held out", inside)):
        for name, pairs in scores.items():
            error, held_share = (float(np.mean([p[i] for p in pairs])) for i in (0, 1))
            lines.append((where, name, str(len(pairs)), f"{error:.1%}", f"{held_share:.0%}"))
            if name in _FIRST and scores is beyond:
                goals.append(at_most(f"{name}, mean relative error", error, _FIRST[name]))
            if name == "answer":
                goals.append(
                    at_least(f"{where}: share of 90 % intervals that hold", held_share, 0.85)
                )
    head = ("runs", "route", "scores", "mean relative error", "intervals that hold")
    return [*tables, Table("By route", head, tuple(lines))], goals
