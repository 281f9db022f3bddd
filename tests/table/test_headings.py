"""Tables as tools and people write them are read without an option, each in its own units."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flops_fit.errors import TableError
from flops_fit.table import RunTable
from flops_fit.table.cells import numbers

N = np.array([1.2e8, 3.4e8, 7.5e8])
D = np.array([8.1e9, 6.2e9, 3.3e9])
C = 6 * N * D * 1.07
L = np.array([3.21, 3.05, 3.11])

# What a tool writes: headings, and which of N, D, C and L in which unit stands below.
TOOLS: dict[str, dict[str, Any]] = {
    "nanochat": {
        "flops_budget": C,
        "depth": [8, 12, 16],
        "params_wte": N / 9,
        "params_total": N,
        "num_iterations": [900, 800, 700],
        "tokens_trained": D,
        "val_bpb": L,
        "core_score": [0.1, 0.2, 0.2],
    },
    "isoflop json": {"parameters": N, "compute_budget": C, "final_loss": L},
    "trainer": {
        "Name": ["a", "b", "c"],
        "model/num_parameters": N,
        "train/num_input_tokens_seen": D,
        "train/total_flos": C,
        "eval/loss": L,
        "train/loss": L + 0.1,
        "train/global_step": [10, 20, 30],
    },
    "trainer flat": {
        "num_parameters": N,
        "num_input_tokens_seen": D,
        "total_flos": C,
        "eval_loss": L,
        "train_loss": L - 1,
    },
    "torchtitan": {
        "n_params": N,
        "ntokens_seen": D,
        "loss_metrics/global_avg_loss": L + 0.2,
        "tflops": [310.0, 320, 330],
        "validation_metrics/loss": L,
    },
    "torchtitan 2": {
        "model_params": N,
        "n_tokens_seen": D,
        "validation_metrics/loss": L,
        "mfu(%)": [40, 41, 42],
    },
    "megatron": {
        "num_params": N,
        "consumed_train_samples": D / 4096,
        "seq_length": [4096] * 3,
        "lm loss": L + 0.1,
        "lm loss validation": L,
    },
    "nemo": {
        "n_params": N,
        "consumed_samples": D / 2048,
        "seq_length": [2048] * 3,
        "reduced_train_loss": L + 1,
        "val_loss": L,
        "global_step": [5, 6, 7],
    },
    "lightning": {
        "n_params": N,
        "step": D / 524288,
        "global_batch_size": [256] * 3,
        "sequence_length": [2048] * 3,
        "val_loss": L,
        "train_loss_epoch": L - 0.1,
    },
    "levanter": {
        "Name": ["a", "b", "c"],
        "State": ["finished"] * 3,
        "parameter_count": N,
        "throughput/total_tokens": D,
        "throughput/total_gflops": C / 1e9,
        "eval/loss": L,
        "eval/bpb": L / 3,
        "eval/macro_loss": L + 0.3,
        "throughput/gflops_per_second": [1, 2, 3],
    },
    "levanter macro": {
        "parameter_count": N,
        "throughput/total_tokens": D,
        "throughput/total_gflops": C / 1e9,
        "eval/paloma/macro_loss": L,
    },
    "olmo": {
        "n_params": N,
        "throughput/total_tokens": D,
        "throughput/total_training_Gflops": C / 1e9,
        "throughput/total_training_log_Gflops": np.log(C / 1e9),
        "eval/pile-validation/CrossEntropyLoss": L,
        "train/CrossEntropyLoss": L + 1,
    },
    "olmo-core": {
        "num_params": N,
        "throughput/total tokens": D,
        "throughput/total petaflops": C / 1e15,
        "train/CE loss": L + 1,
        "eval/lm/pile-validation/CE loss": L,
    },
    "llm-foundry": {
        "n_params": N,
        "time/token": D,
        "loss/train/total": L + 1,
        "metrics/eval/LanguageCrossEntropy": L,
    },
    "litgpt": {
        "n_params": N,
        "total_tokens": D,
        "val_loss": L,
        "val_ppl": np.exp(L),
        "iter": [1, 2, 3],
    },
    "open_clip": {
        "mparams": N / 1e6,
        "gflops": [3.6, 5.7, 7.4],
        "samples_seen": D,
        "samples_seen_pretty": ["8.1B", "6.2B", "3.3B"],
        "val_loss": L,
    },
    "gemstones": {
        "width": [256, 512, 768],
        "depth": [8, 9, 10],
        "params": N,
        "tokens": D,
        "FLOPs_6N": C,
        "FLOPs_per_token": C / D,
        "val_loss": L,
    },
    "open llm": {
        "Model": ["a", "b", "c"],
        "Model Size (B)": N / 1e9,
        "Pretraining Data Size (T)": D / 1e12,
        "FLOPs (1E21)": C / 1e21,
        "Loss": L,
    },
    "paper": {
        "#Params (M)": N / 1e6,
        "Tokens (B)": D / 1e9,
        "Compute (PF-days)": C / 8.64e19,
        "Validation Loss": L,
    },
    "suffixes": {
        "params_m": N / 1e6,
        "tokens_in_billions": D / 1e9,
        "train_pflops": C / 1e15,
        "final_loss": L,
    },
    "words": {
        "N (millions)": N / 1e6,
        "D (billion tokens)": D / 1e9,
        "C [EFLOPs]": C / 1e18,
        "Test Loss (nats)": L,
    },
}


NO_COMPUTE = (
    *("torchtitan", "torchtitan 2", "megatron", "nemo", "lightning", "llm-foundry", "litgpt"),
    "open_clip",
)


@pytest.mark.parametrize("tool", TOOLS)
def test_what_a_tool_writes_is_read_in_its_own_units(tool: str, tmp_path) -> None:
    """Twenty-one tables, each from the headings of its tool."""
    columns = TOOLS[tool]
    path = tmp_path / "runs.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    for source in (path, {k: list(v) for k, v in columns.items()}):
        table = RunTable.read(source)
        np.testing.assert_allclose(table.params, N, rtol=1e-6)
        np.testing.assert_allclose(table.loss, L)
        planned = tool == "isoflop json"
        np.testing.assert_allclose(table.tokens, C / (6 * N) if planned else D, rtol=1e-6)
        np.testing.assert_allclose(table.flops, 6 * N * D if tool in NO_COMPUTE else C)
        assert table.recognised[0].startswith("params: column ")


def test_one_line_a_column_says_what_was_recognised() -> None:
    """The heading, its unit and the tool whose heading it is."""
    lines = RunTable.read({k: list(v) for k, v in TOOLS["levanter"].items()}).recognised
    assert (
        "flops: column 'throughput/total_gflops', in units of 1e+09 (a heading of levanter)"
        in lines
    )
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("cells", "value"),
    [
        (["1.5B", "300M"], [1.5e9, 3e8]),
        (["1e9 tokens", "2.5 B tokens"], [1e9, 2.5e9]),
        (["1.2 million", "3 bn"], [1.2e6, 3e9]),
        (["1,234,567", "125,000"], [1234567, 125000]),
        (["1 234 567", "12 000"], [1234567, 12000]),
        (["1.234.567", "1.234,5"], [1234567, 1234.5]),
        (["3,14", "2,7"], [3.14, 2.7]),
        (["3×10²⁰", "10^21", "2 x 10^9"], [3e20, 1e21, 2e9]),
        (["~7B", "#N/A", "-", "70b"], [7e9, np.nan, np.nan, 7e10]),
        (["0.5 PF-days", "3 EFLOPs"], [4.32e19, 3e18]),
        (["**125M**", "350M*", "70B (non-embedding)"], [1.25e8, 3.5e8, 7e10]),
        (["$3 \\times 10^{20}$", "1,5B"], [3e20, 1.5e9]),
        (["3.21 ± 0.01", "3.05(2)", "2.9 nats"], [3.21, 3.05, 2.9]),
        (["3.2 [3.1, 3.3]", "2.9 nats/token"], [3.2, 2.9]),
        (["2^-10", "6.0·10⁻⁴", "3e−4"], [2**-10, 6e-4, 3e-4]),
        (['="3.0"', "'2.9", "∞", "1.#QNAN", "n.a."], [3.0, 2.9, np.nan, np.nan, np.nan]),
    ],
)
def test_cells_are_read_with_their_units(cells: Sequence[str], value: Sequence[float]) -> None:
    """Counts may carry a unit, and commas that mean one thing only are read."""
    np.testing.assert_allclose(numbers(cells, "params", counts=True), value)


@pytest.mark.parametrize("cell", ["7 apples", "125,000", "3.5Q", "1,2,3", "abc"])
def test_what_could_mean_two_things_is_refused(cell: str) -> None:
    """One group behind a comma may be thousands or decimals."""
    with pytest.raises(TableError, match="expected a number"):
        numbers([cell], "params", counts=True)


def test_a_unit_in_a_cell_goes_before_that_of_the_heading() -> None:
    """7B below "Model Size (B)" is seven billion; a loss carries no unit."""
    row = {"Model Size (B)": ["7B", "13"], "Tokens (B)": [140, 260], "loss": [2.0, 1.9]}
    assert RunTable.read(row).params.tolist() == [7e9, 13e9]
    with pytest.raises(TableError, match="'loss', row 1: expected a number"):
        RunTable.read({**row, "loss": ["2M", 1.9]})


BODY = [f"{n:.0f}|{d:.0f}|{loss}" for n, d, loss in zip(N, D, L, strict=True)]
TEXTS = {
    "semicolons and commas": ["N;D;loss", *(r.replace("|", ";").replace(".", ",") for r in BODY)],
    "a comment above": [
        "# sweep of spring, with notes",
        "N,D,loss",
        *(r.replace("|", ",") for r in BODY),
    ],
    "a title above": ["My runs,,", ",,", "N,D,loss", *(r.replace("|", ",") for r in BODY)],
    "a comment between": [
        "N,D,loss",
        BODY[0].replace("|", ","),
        "# second day",
        *(r.replace("|", ",") for r in BODY[1:]),
    ],
    "headings in a comment": ["# N D loss", *(r.replace("|", " ") for r in BODY)],
    "empty rows": ["N,D,loss,", *(r.replace("|", ",") + "," for r in BODY), ",,,", ",,,"],
    "markdown": [
        "| N | D | loss |",
        "|---|---|---|",
        *(f"| {r.replace('|', ' | ')} |" for r in BODY),
    ],
    "a total below": ["N,D,loss", *(r.replace("|", ",") for r in BODY), "", "3 runs in all"],
    "LaTeX": ["N|D|loss", *BODY, "\\\\"],
    "a page around it": [
        "About, it",
        "",
        "| N | D | loss |",
        "|--|--|--|",
        *(f"|{r}|" for r in BODY),
        "That was it.",
    ],
    "tabs": ["N\tD\tloss", *(r.replace("|", "\t") for r in BODY)],
    "tabs and commas": [
        "N (M)\tD (G)\tloss",
        *(
            f"{n / 1e6:.3f}\t{d / 1e9:.3f}\t{y}".replace(".", ",")
            for n, d, y in zip(N, D, L, strict=True)
        ),
    ],
    "LaTeX of a paper": [
        "\\begin{tabular}{lll}",
        "\\toprule",
        "\\textbf{N} & D & loss \\\\",
        "\\midrule",
        *(r.replace("|", " & ") + " \\\\ \\hline" for r in BODY),
        "\\end{tabular}",
    ],
    "headings behind %": ["% N,D,loss", *(r.replace("|", ",") for r in BODY)],
    "headings in a comment, and below": [
        "# N D loss",
        "N,D,loss",
        *(r.replace("|", ",") for r in BODY),
    ],
    "rows counted by pandas": [
        "N D loss",
        *(f"{i}  {r.replace('|', ' ')}" for i, r in enumerate(BODY)),
    ],
    "rows named by R": ['"N","D","loss"', *(f'"r",{r.replace("|", ",")}' for r in BODY)],
    "a count below": [
        "N | D | loss",
        "--+---+---",
        *(r.replace("|", " | ") for r in BODY),
        "(3 rows)",
    ],
}


@pytest.mark.parametrize("kind", TEXTS)
def test_files_as_spreadsheets_and_people_write_them(kind: str, tmp_path) -> None:
    """Titles, comments, empty rows and decimal commas do not stand in the way."""
    path = tmp_path / "runs.csv"
    path.write_text("\n".join(TEXTS[kind]) + "\n")
    table = RunTable.read(path)
    np.testing.assert_allclose(table.params, N)
    np.testing.assert_allclose(table.loss, L)
    assert not table.excluded


DOCUMENTS: dict[str, Any] = {
    "split": {
        "columns": ["N", "D", "loss"],
        "index": [0, 1],
        "data": [[1e8, 2e9, 3.0], [2e8, 1e9, 3.1]],
    },
    "columns": {"N": {"0": 1e8, "1": 2e8}, "D": {"0": 2e9, "1": 1e9}, "loss": {"0": 3.0, "1": 3.1}},
    "by name": {"a": {"N": 1e8, "D": 2e9, "loss": 3.0}, "b": {"N": 2e8, "D": 1e9, "loss": 3.1}},
    "rows of lists": [["N", "D", "loss"], [1e8, 2e9, 3.0], [2e8, 1e9, 3.1]],
    "a list a budget": {
        "1.2e18": [{"N": 1e8, "D": 2e9, "loss": 3.0}],
        "1.2e+18": [{"N": 2e8, "D": 1e9, "loss": 3.1}],
    },
    "named, inside": {
        "project": "x",
        "runs": {"a": {"N": 1e8, "D": 2e9, "loss": 3.0}, "b": {"N": 2e8, "D": 1e9, "loss": 3.1}},
    },
    "columns, inside": {"data": {"N": [1e8, 2e8], "D": [2e9, 1e9], "loss": [3.0, 3.1]}},
    "columns a budget": {
        "1e18": {"N": [1e8], "D": [2e9], "loss": [3.0]},
        "3e18": {"N": [2e8], "D": [1e9], "loss": [3.1]},
    },
    "beside notes": {
        "notes": ["x"],
        "runs": [{"N": 1e8, "D": 2e9, "loss": 3.0}, {"N": 2e8, "D": 1e9, "loss": 3.1}],
    },
    "several of each": {"model_sizes": [1e8, 2e8], "tokens": [2e9, 1e9], "losses": [3.0, 3.1]},
    "columns beside a name": {"name": "x", "N": [1e8, 2e8], "D": [2e9, 1e9], "loss": [3.0, 3.1]},
    "inside": {
        "project": "x",
        "runs": [{"N": 1e8, "D": 2e9, "loss": 3.0}, {"N": 2e8, "D": 1e9, "loss": 3.1}],
    },
    "trainer states": [
        {
            "num_parameters": 1e8,
            "num_input_tokens_seen": 2e9,
            "total_flos": 1.2e18,
            "log_history": [
                {"loss": 4.0, "step": 1},
                {"eval_loss": 3.4, "step": 1},
                {"eval_loss": 3.0, "step": 2},
            ],
        },
        {
            "num_parameters": 2e8,
            "num_input_tokens_seen": 1e9,
            "total_flos": 1.2e18,
            "log_history": [{"eval_loss": 3.1, "step": 2}],
        },
    ],
}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_documents_hold_the_same_runs(kind: str, tmp_path) -> None:
    """JSON as pandas and trainers save it."""
    path = tmp_path / "runs.json"
    path.write_text(json.dumps(DOCUMENTS[kind]))
    table = RunTable.read(path)
    assert table.params.tolist() == [1e8, 2e8]
    assert table.loss.tolist() == [3.0, 3.1]


@pytest.mark.parametrize("loss", ["eval/ce", "val_xent", "C4 Eval Loss", "cd_val_loss", "eval/bpb"])
def test_losses_of_other_names_are_found_beside_those_of_training(loss: str) -> None:
    """The held-out one is taken, whatever it is called."""
    rows = [{"Parameter": 1e8, "n_tokens": 1e9, loss: 3.0, "train/ce": 2.9}]
    assert RunTable.read(rows).loss.tolist() == [3.0]


def test_of_readings_of_one_loss_the_last_is_taken() -> None:
    """As SageMaker aggregates metrics."""
    row = {"N": 1e8, "D": 2e9, "loss - Min": 2.9, "loss - StdDev": 0.3, "loss - Last": 3.0}
    assert RunTable.read([row]).loss.tolist() == [3.0]


def test_bytes_of_western_windows_are_read(tmp_path) -> None:
    """As its spreadsheets write CSV."""
    path = tmp_path / "Läufe.csv"
    path.write_bytes("Größe;Tokens;loss\n1e8;2e9;3,0\n".encode("cp1252"))
    assert RunTable.read(path, {"params": "Größe"}).loss.tolist() == [3.0]


def test_a_trainer_state_alone_says_what_it_lacks(tmp_path) -> None:
    """One run's log, with its compute and loss, lacks N; FLOPs would give D."""
    path = tmp_path / "trainer_state.json"
    state = {"global_step": 9, "total_flos": 1e15, "log_history": [{"eval_loss": 3.0, "step": 9}]}
    path.write_text(json.dumps(state))
    with pytest.raises(TableError, match=r"lacks \['params'\]; it has .*'total_flos'"):
        RunTable.read(path)


def test_a_chart_from_wandb_is_refused_with_the_way(tmp_path) -> None:
    """One column a run is no table of runs."""
    path = tmp_path / "chart.csv"
    path.write_text(
        '"Step","r0 - eval/loss","r0 - eval/loss__MIN","r0 - eval/loss__MAX"\n1,3,3,3\n'
    )
    with pytest.raises(TableError, match="chart exported from W&B.*Export the table of runs"):
        RunTable.read(path)


def test_all_missing_columns_are_named_with_their_likeliest_headings() -> None:
    """Each has a proposal of its own that reads the table."""
    rows = [{"weights": 1e8, "corpus_tokens_used": 2e9, "entropy_end": 3.0, "wd": 0.1}]
    with pytest.raises(TableError) as info:
        RunTable.read(rows)
    proposed = {"params": "weights", "tokens": "corpus_tokens_used", "loss": "entropy_end"}
    assert "lacks ['params', 'tokens', 'loss']" in str(info.value)
    assert f"columns={proposed}" in str(info.value)
    assert len(RunTable.read(rows, proposed)) == 1


def test_a_heading_that_stands_twice_is_asked_for_unless_both_hold_the_same(tmp_path) -> None:
    """In a file, and as pandas and polars name the second."""
    path = tmp_path / "twice.csv"
    path.write_text("N,D,loss,loss\n1e8,2e9,3.0,2.5\n")
    with pytest.raises(TableError, match=r"'loss', 'loss.1'\] could each be loss"):
        RunTable.read(path)
    with pytest.raises(TableError, match="could each be tokens"):
        RunTable.read([{"N": 1e8, "tokens": 2e9, "tokens_duplicated_0": 4e9, "loss": 3.0}])
    path.write_text("N,D,loss,loss\n1e8,2e9,3.0,3.0\n")
    assert RunTable.read(path).loss.tolist() == [3.0]


def test_frames_of_two_levels_of_headings_or_of_names_in_the_index(tmp_path) -> None:
    """A level that a sheet left empty, runs in the index, and quantities in it."""
    levels = {("N", "Unnamed: 0_level_1"): [1e8], ("D", "Unnamed: 1_level_1"): [2e9]}
    frame = pd.DataFrame({**levels, ("Loss", "train"): [2.5], ("Loss", "val"): [3.0]})
    read = RunTable.read(frame)
    assert (read.params[0], read.tokens[0], read.loss[0]) == (1e8, 2e9, 3.0)
    named = pd.DataFrame({"N": [1e8], "D": [2e9], "loss": [3.0]}, index=["gpt"])
    assert RunTable.read(named).labels == ("gpt",)
    named.to_csv(tmp_path / "named.csv")
    assert RunTable.read(tmp_path / "named.csv").labels == ("gpt",)
    with pytest.raises(TableError, match="transpose"):
        RunTable.read(named.T)


@pytest.mark.parametrize("heading", ["tokens_per_epoch", "tokens_per_gpu", "Tokens (eval)"])
def test_a_part_of_the_tokens_is_not_proposed_as_them(heading: str) -> None:
    """Who follows the proposal would be wrong by a factor."""
    with pytest.raises(TableError, match="{'tokens': 'your_column'}"):
        RunTable.read([{"N": 1e8, heading: 2e9, "loss": 3.0}])
    read = RunTable.read([{"N": 1e8, "D": 2e9, "flops_per_token_listed": 5e8, "loss": 3.0}])
    assert read.notes == ("The table has no FLOPs: C = 6·N·D was assumed.",)


def test_columns_that_hold_the_same_are_one() -> None:
    """Rounded labels beside exact numbers; columns that differ are asked for."""
    rows = {
        "params": ["120M", "340M", "750M"],
        "N": N.tolist(),
        "D": D.tolist(),
        "train_tokens": D.tolist(),
        "loss": L.tolist(),
    }
    table = RunTable.read(rows)
    np.testing.assert_array_equal(table.params, N)
    with pytest.raises(TableError, match="could each be tokens"):
        RunTable.read({**rows, "train_tokens": (2 * D).tolist()})


def test_steps_are_no_tokens_without_the_batch() -> None:
    """With batch and length they are; the message says so where these lack."""
    rows = {"N": N.tolist(), "steps": [1000, 2000, 3000], "loss": L.tolist()}
    with pytest.raises(TableError, match="Steps are no tokens: add a column"):
        RunTable.read(rows)
    for length in ("seq_len", "ctx"):
        table = RunTable.read({**rows, "batch_size": [64] * 3, length: [1024] * 3})
        assert table.tokens.tolist() == [65_536_000, 131_072_000, 196_608_000]


HEADINGS = {
    "params": (
        *("total_parameter_count", "# of parameters", "Number of Parameters", "Params (total)"),
        *("num_trainable_parameters", "N (non-embedding)", "model parameter count", "size"),
        *("N_total", "nparams", "non_emb_params", "params_n_params", "user_attrs_n_params"),
        *(
            "numParams",
            "ParameterCount",
            "Params, N",
            "N: params",
            "N=#params",
            "Params<br>(total)",
        ),
        *("𝑁", "N\u200b", "параметры"),
    ),
    "tokens": (
        *("Training tokens consumed", "number_of_training_tokens", "total_tokens_processed"),
        *("Tokens (seen)", "cumulative tokens", "D"),
        *("trainTokens", "tokensSeen", "Tokens D", "D = tokens"),
        *("token_count", "ntokens", "D_tokens", "Dataset size", "train_samples_seen", "images"),
    ),
    "loss": (
        "Loss (C4)",
        "Final Validation Loss",
        "val/ce",
        "loss (nats/token)",
        "min_val_loss",
        "validation_cross_entropy",
        "bits_per_token",
        *("wikitext/bits_per_byte,none", "user_attrs_val_loss", "loss (nats)", "best_losses"),
        *("valLoss", "valloss", "ValidationLoss", "Loss, L", "Loss ↓", "loss (± se)", "valBPB"),
    ),
}


@pytest.mark.parametrize(
    ("name", "heading"), [(name, heading) for name, all_ in HEADINGS.items() for heading in all_]
)
def test_words_that_change_nothing_and_remarks_are_read_over(name: str, heading: str) -> None:
    """Counts, totals and what stands in brackets."""
    row: dict[str, Any] = {"params": 1e8, "tokens": 2e9, "loss": 3.0}
    table = RunTable.read([{heading if k == name else k: v for k, v in row.items()}])
    assert getattr(table, name).tolist() == [row[name]]


@pytest.mark.parametrize(
    "heading",
    [
        *(
            "speed/FLOPS",
            "flops_per_sec",
            "throughput/device/flopsPS",
            "tokens per second",
            "FLOPs/s",
        ),
        *(
            "compute (GPU hours)",
            "Compute (H100-days)",
            "tokens_per_step",
            "log_flops",
            "params ratio",
            "Compute (USD)",
            "compute (node-hrs)",
        ),
    ],
)
def test_speeds_shares_and_times_are_no_quantity_of_a_run(heading: str) -> None:
    """They stand beside N, D and C, or in their place."""
    table = RunTable.read([{"params": 1e8, "tokens": 2e9, "loss": 3.0, heading: 7.0}])
    assert (table.params[0], table.tokens[0], table.flops[0]) == (1e8, 2e9, pytest.approx(1.2e18))


@pytest.mark.parametrize(
    "heading",
    [
        *("batch_size", "bsz", "BatchSize", "config.train_batch_size", "global_bsz", "hparams/bs"),
        *("seqs_per_batch", "effective_batch_size", "samples_per_step", "mini_batch_size"),
    ],
)
def test_batches_of_sequences_by_their_usual_names(heading: str) -> None:
    table = RunTable.read([{"params": 1e8, "tokens": 2e9, "loss": 3.0, heading: 256, "lr": 0.01}])
    assert table.batch_units is not None
    assert (table.batch_units.tolist(), table.batch_unit) == ([256.0], "sequences")


@pytest.mark.parametrize(
    "heading",
    [
        *(
            "batch_tokens",
            "batch_units",
            "global_batch_size_tokens",
            "batch_in_tokens",
            "bs_tokens",
        ),
        *("tokens/batch", "tok_per_step", "total_batch_size", "train.global_batch_tokens"),
    ],
)
def test_batches_of_tokens_by_their_usual_names(heading: str) -> None:
    table = RunTable.read([{"params": 1e8, "tokens": 2e9, "loss": 3.0, heading: 65_536}])
    assert table.batch_units is not None
    assert (table.batch_units.tolist(), table.batch_unit) == ([65_536.0], "")


@pytest.mark.parametrize(
    "heading", ["lr", "Peak LR", "learningRate", "max_learning_rate", "config.optimizer.lr"]
)
def test_rates_by_their_usual_names(heading: str) -> None:
    table = RunTable.read([{"params": 1e8, "tokens": 2e9, "loss": 3.0, heading: 0.003}])
    assert table.lr is not None
    assert table.lr.tolist() == [0.003]


@pytest.mark.parametrize(
    "heading", ["eta", "ETA (s)", "n_batches", "micro_batch_size", "batch_time"]
)
def test_times_counts_and_parts_are_no_rate_and_no_batch(heading: str) -> None:
    table = RunTable.read([{"params": 1e8, "tokens": 2e9, "loss": 3.0, heading: 12.0}])
    assert table.lr is None
    assert table.batch_units is None


def test_logarithms_and_perplexities_are_refused_in_words() -> None:
    """No mapping of columns would read them."""
    with pytest.raises(TableError, match="Logarithms are not read: add columns"):
        RunTable.read([{"log10_N": 8.0, "log10 D": 9.3, "loss": 3.0}])
    with pytest.raises(TableError, match=r"beside \['log10\(C\)'\]"):
        RunTable.read([{"N": 1e8, "log10(C)": 18.0, "loss": 3.0}])
    with pytest.raises(TableError, match="Perplexity is no loss: add a column loss = ln"):
        RunTable.read([{"N": 1e8, "D": 2e9, "val_ppl": 20.0}])


@pytest.mark.parametrize(
    ("params", "tokens"),
    [
        *[("params/1e6", "tokens/1e9"), ("Mparams", "Gtokens"), ("N x10^6", "D (x1e9)")],
        *[("Params [1e6]", "Tokens, billions"), ("M params", "B tokens")],
        *[("Millions of parameters", "Mrd. Tokens"), ("nparams_millions", "GToks")],
        *[("Params (M, non-emb)", "Tokens (B, seen)"), ("N ($10^6$)", "D (x 10^9)")],
        *[
            ("Params (unit: M)", "Tokens [total, B]"),
            ("Params (millions of)", "Tokens (billions of)"),
        ],
        *[("参数量（百万）", "训练词元(十亿)"), ("Num. params (M)", "Train. tokens (B)")],
        *[("Parámetros (millones)", "Tokens (miles de millones)")],
    ],
)
def test_units_stand_anywhere_in_a_heading(params: str, tokens: str) -> None:
    """Behind a slash, a cross, a bracket or a comma, beside a remark, or before the word."""
    table = RunTable.read([{params: 125.0, tokens: 2.5, "loss": 3.0}])
    assert (table.params[0], table.tokens[0]) == (1.25e8, 2.5e9)


@pytest.mark.parametrize("heading", ["Params (mil)", "Params (10^6s)", "Params (x1M)"])
def test_a_remark_that_may_be_a_unit_is_asked_for(heading: str) -> None:
    """It is no word that changes nothing."""
    with pytest.raises(TableError, match=re.escape(f"{{'params': '{heading}'}}")):
        RunTable.read([{heading: 125.0, "tokens": 2.5e9, "loss": 3.0}])


def test_tokens_a_parameter_make_the_tokens() -> None:
    """Where the table has no tokens."""
    for heading in ("tokens_per_param", "D/N"):
        assert RunTable.read([{"N": 1e8, heading: 20, "loss": 3.0}]).tokens.tolist() == [2e9]


def test_one_loss_of_another_name_is_read_and_of_two_one_is_asked_for() -> None:
    """A loss on one corpus; auxiliary losses are none."""
    row = {"N": 1e8, "D": 2e9, "C4 loss": 3.0, "z_loss": 0.1, "moe_loss": 0.2}
    assert RunTable.read([row]).loss.tolist() == [3.0]
    with pytest.raises(TableError, match="could each be loss"):
        RunTable.read([{**row, "Pile loss": 3.1}])


def test_tokens_that_are_not_known_as_such_are_asked_for() -> None:
    """Where D is assumed from C beside a column that may hold it."""
    row = {"params": 1e8, "flops": 1.3e18, "corpus_tokens_used": 2e9, "loss": 3.0}
    table = RunTable.read([row])
    assert "Is 'corpus_tokens_used' D? Then say so: columns={'tokens':" in table.notes[-1]
    assert not any("Is " in note for note in RunTable.read([{**row, "D": 2e9}]).notes)


ROW = "1e8,2e9,3.0"
SHEETS = {
    "two lines of headings": f"run,size,size,eval\n,params,tokens,loss\na,{ROW}\n",
    "headings above each block": f"N,D,loss\n{ROW}\nN,D,loss\n",
    "notes below": f'run,N,D,loss\na,{ROW}\n\nNotes: all runs had cosine decay, warmup 1%\n"see, above",,,\n',
    "a sum below": f"run,N,D,loss\na,{ROW}\nTotal,9e9,9e9,3.0\n",
    "no result yet": f"run,N,D,loss\na,{ROW}\nb,1e8,4e9,OOM\nc,1e8,TBD,3.0\n",
    "marks of footnotes": "N¹,D†,loss\n1e8,2e9,3.0*\n",
    "powers of two in units": "N,D (x1e9),loss\n1e8,2,3.0\n",
    "a line of factors": "N,D,loss\nx1e6,x1e9,-\n100,2,3.0\n",
    "a line of powers": "N,D,loss\n10^6,10^9,nats\n100,2,3.0\n",
    "a line of powers in LaTeX": "N,D,loss\n$10^6$,(in B),\n100,2,3.0\n",
    "words of runs that failed": (
        "N,D,loss\n1e8,2e9,3.0\n1e8,3e9,diverged at 3k\n1e8,4e9,OOM (80GB)\n1e8,5e9,did not finish\n"
    ),
    "columns of other things of one name": "N,D,loss,lr,lr,Notes,Notes\n1e8,2e9,3.0,1e-3,1e-4,a,b\n",
    "tokens a parameter as a multiple": "N,tokens/param,loss\n1e8,20x,3.0\n",
    "a count of zeros": "N,num_input_tokens_seen,total_flos,eval_loss\n1e8,0,1.2e18,3.0\n",
    "German": "Parameter (Mio.);Tokens (Mrd.);Validierungsverlust\n100,0;2,0;3,0\n",
    "French": "Paramètres;Jetons;Perte de validation\n100 000 000;2 000 000 000;3,0\n",
    "Chinese": "参数量,训练词元,验证损失\n1e8,2e9,3.0\n",
    "groups before a suffix": 'N,D,loss\n"100,000.0K",2e9,3.0\n',
    "a batch in tokens beside the length": (
        "N,steps,batch size (tokens),seq_len,loss\n1e8,2000,1e6,2048,3.0\n"
    ),
    "passes over unique tokens": "N,unique tokens,epochs,loss\n1e8,5e8,4,3.0\n",
    "the whole batch on devices": (
        "N,steps,global_batch_size,num_gpus,seq_len,loss\n1e8,2000,1000,8,1000,3.0\n"
    ),
    "predictions beside": "N,D,predicted loss,actual loss\n1e8,2e9,9.0,3.0\n",
    "dicts in cells": "name,summary,config\na,\"{'loss': 3.0, 'tokens': 2e9}\",\"{'n_params': 1e8}\"\n",
    "a subset behind an equals sign": "N,D,loss subset=val,loss subset=train\n1e8,2e9,3.0,2.0\n",
}


@pytest.mark.parametrize("kind", SHEETS)
def test_tables_as_people_keep_them_are_read(kind: str, tmp_path) -> None:
    """One run of 1e8 parameters and 2e9 tokens; what is no run is left out, with its reason."""
    path = tmp_path / "sheet.csv"
    path.write_text(SHEETS[kind])
    table = RunTable.read(path)
    assert (table.params.tolist(), table.tokens.tolist(), table.loss.tolist()) == (
        [1e8],
        [2e9],
        [3.0],
    )


def test_cells_stand_once_a_block_where_they_were_merged(tmp_path) -> None:
    """The first of each block; a note says so."""
    path = tmp_path / "merged.csv"
    path.write_text("N,D,loss\n1e8,1e9,3.2\n,2e9,3.1\n,4e9,3.0\n2e8,1e9,3.1\n,2e9,3.0\n")
    table = RunTable.read(path)
    assert table.params.tolist() == [1e8] * 3 + [2e8] * 2
    assert any("stands once a block" in note for note in table.notes)


def test_compute_that_some_runs_lack_is_that_of_the_others() -> None:
    """It is not taken from the row above, where each run has its own."""
    flops = [7 * n * d for n, d in zip(N, D, strict=True)]
    gaps = [flops[0], None, None]
    table = RunTable.read({"N": N, "D": D, "C": gaps, "loss": L})
    np.testing.assert_allclose(table.flops, flops)
    assert table.notes == ("2 runs have no FLOPs: C = 7·N·D, as the others have.",)


def test_columns_of_words_are_no_quantity() -> None:
    """A kind of loss, a cluster or a remark beside the numbers."""
    words = {"loss": "cross_entropy", "compute": "a cluster", "unique_tokens": "all", "C": "large"}
    table = RunTable.read([{"N": 1e8, "D": 2e9, "final_loss": 3.0, **words}])
    assert (table.loss[0], table.flops[0]) == (3.0, pytest.approx(1.2e18))
    with pytest.raises(TableError, match="expected a number, got 'small'"):
        RunTable.read([{"N": "small", "D": 2e9, "loss": 3.0}])


def test_the_proposal_among_several_is_a_word() -> None:
    """A letter may be a depth."""
    with pytest.raises(TableError, match=r"could each be tokens; .*'n_tokens'}"):
        RunTable.read([{"params": 1e8, "D": 12, "n_tokens": 2e9, "loss": 3.0}])
    with pytest.raises(TableError, match=r"lacks \['loss'\]"):
        RunTable.read([{"params": 1e8, "D": 2e9, "loss_spikes": 3}])


WRONG = {
    "no headings": ("a,1e8,2e9,3.0\nb,2e8,2e9,2.9\n", "holds numbers: put the headings"),
    "a column for each length": (
        "N,1B,2B,4B\n1e8,3.2,3.1,3.0\n",
        "give each loss a row of its own",
    ),
    "losses at each length": ("N,loss_1B,loss_2B,loss_4B\n1e8,3,3,3\n", "give each loss a row"),
    "runs in columns, no heading": (
        ",a,b\nparams,1e8,2e8\ntokens,2e9,2e9\nloss,3,2\n",
        "transpose",
    ),
    "runs in columns": ("run,a,b\nparams,1e8,2e8\ntokens,2e9,2e9\nloss,3,2\n", "transpose"),
    "part of a batch": (
        "N,steps,batch_size,grad_accum,seq_len,loss\n1e8,2000,10,8,1000,3\n",
        "'batch_size' may be a part of the batch, beside .'grad_accum'",
    ),
    "logarithm": ("N,D,log10_loss\n1e8,2e9,0.5\n", "Logarithms are not read"),
    "excess": ("N,D,delta_loss\n1e8,2e9,0.5\n", "{'loss': 'delta_loss'}"),
    "points and commas": ('N,D (M),loss\n1e8,"2,000",3\n', "no commas between thousands"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_may_mean_two_is_refused_with_the_way(kind: str, tmp_path) -> None:
    """None of these is read as something else."""
    path = tmp_path / "sheet.csv"
    text, words = WRONG[kind]
    path.write_text(text)
    with pytest.raises(TableError, match=words):
        RunTable.read(path)


def test_lists_of_keys_and_values_are_columns() -> None:
    """As MLflow's server answers."""
    data = {"params": [{"key": "n_params", "value": "1e8"}, {"key": "tokens", "value": "2e9"}]}
    data["metrics"] = [{"key": "val_loss", "value": 3.0, "step": 0}]
    assert RunTable.read([{"info": {"run_id": "a"}, "data": data}]).tokens.tolist() == [2e9]


def test_samples_with_a_length_are_doubted() -> None:
    """C = 6·N·D counts one position of each."""
    rows = [{"N": 1e8, "samples_seen": 1e6, "seq_len": 2048, "loss": 3.0}]
    assert [f.code for f in RunTable.read(rows).findings] == ["lengths"]


TRIALS = {"number": [0, 1, 2], "value": L, "datetime_start": "2025-01-01 10:00:00"}
ALONE: dict[str, tuple[dict[str, Any], str]] = {
    "a total and the model's own": ({"total_loss": L + 0.1, "lm_loss": L}, "lm_loss"),
    "an auxiliary one beside": ({"loss": L + 0.1, "ce_loss": L, "aux_loss": 0.1}, "ce_loss"),
    "experts, held out": ({"val/total_loss": L + 0.1, "val/lm_loss": L}, "val/lm_loss"),
    "held out before training": (
        {"val/loss": L, "train/lm_loss": L - 0.2, "moe_loss": 0.1},
        "val/loss",
    ),
    "a total alone": ({"total_loss": L}, "total_loss"),
    "words in quotes": (
        {'loss subset="val"': L, 'loss subset="train"': L - 0.1},
        'loss subset="val"',
    ),
}


@pytest.mark.parametrize("kind", ALONE)
def test_the_loss_is_the_models_own(kind: str) -> None:
    """Trainers of experts log a total with the losses that balance them."""
    columns, taken = ALONE[kind]
    read = RunTable.read(pd.DataFrame({"params": N, "tokens": D, **columns}))
    assert read.loss.tolist() == L.tolist()
    assert f"loss: column {taken!r}" in read.recognised[-1]


def test_two_headings_that_differ_in_capitals_alone_are_doubted() -> None:
    """Unless both columns hold the same."""
    rows = pd.DataFrame({"params": N, "tokens": D, "Loss": L, "loss": L + 0.1})
    with pytest.raises(TableError, match=r"\['Loss', 'loss'\] could each be loss"):
        RunTable.read(rows)
    assert RunTable.read(rows.assign(loss=L)).loss.tolist() == L.tolist()


@pytest.mark.parametrize("scope", ["params", "user_attrs"])
def test_the_objective_of_optunas_trials_is_the_loss(scope: str) -> None:
    """``study.trials_dataframe()``: by the headings beside it; ``value`` by itself says nothing."""
    trials = {**TRIALS, f"{scope}_n_params": N, f"{scope}_tokens": D}
    read = RunTable.read(pd.DataFrame({**trials, "state": ["COMPLETE", "COMPLETE", "PRUNED"]}))
    assert read.loss.tolist() == L[:2].tolist()
    assert "The column 'value' was taken for loss." in read.notes
    with pytest.raises(TableError, match="{'loss': 'value'}"):
        RunTable.read(pd.DataFrame(trials))


@pytest.mark.parametrize(
    "written", ["8xH100", "8 x H100 80GB", "8 A100", "H100 x 8", "8×H100", "8"]
)
def test_devices_are_counted_where_their_name_stands_beside(written: str) -> None:
    """A batch beside several may be that of one."""
    rows = {"N": N, "steps": 100, "batch_size": 4, "seq_len": 1024, "loss": L}
    with pytest.raises(TableError, match="may be a part of the batch, beside .'gpus'"):
        RunTable.read(pd.DataFrame({**rows, "gpus": written}))
    assert RunTable.read(pd.DataFrame({**rows, "gpus": "H100"})).tokens.tolist() == [409600] * 3


@pytest.mark.parametrize("name", ["runs.csv.gz", "runs.jsonl.gz", "runs.json.gz", "runs"])
def test_a_table_packed_by_gzip_is_read(name: str, tmp_path: Path) -> None:
    """By its first bytes, whatever its name."""
    frame = pd.DataFrame({"params": N, "tokens": D, "loss": L})
    as_json = {"orient": "records", "lines": "jsonl" in name}
    text = frame.to_json(**as_json) if "json" in name else frame.to_csv(index=False)
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    assert RunTable.read(tmp_path / name).loss == pytest.approx(L)


def test_a_speed_named_flops_is_told_once() -> None:
    """That it is not used, and nothing else of it."""
    rows = {"params": N, "tokens": D, "loss": L, "tflops": 300.0}
    notes = [n for n in RunTable.read(pd.DataFrame(rows)).notes if "tflops" in n]
    assert notes == ["The column 'tflops' is no compute of whole runs; it is not used."]


def columns(**more: object) -> dict[str, object]:
    """Four runs whose D of 1e9 to 4e9 follows from their steps, 512 sequences of 1,024 tokens each."""
    D = np.array([1e9, 2e9, 3e9, 4e9])
    own = {"params": [1e8, 2e8, 3e8, 4e8], "steps": D / 2**19, "val_loss": [3.11, 3.02, 2.93, 2.87]}
    return {**own, **{name: [value] * 4 for name, value in more.items()}}


WHOLE = {"global_batch_size": 512, "seq_len": 1024}


@pytest.mark.parametrize(
    "beside",
    [
        {"batch_size": 8}, {"micro_batch": 8, "train_batch_size": 512}, {"max_position_embeddings": 4096},
        {"max_length": 20}, {"batch_size": 8, "num_gpus": 64}, {"top_k": 50},
    ],
)  # fmt: skip
def test_the_whole_batch_and_the_length_that_was_trained_make_the_tokens(beside) -> None:
    """A batch of one device, or the longest that a model can read, is another thing."""
    read = RunTable.read(columns(**WHOLE, **beside))
    assert read.tokens == pytest.approx([1e9, 2e9, 3e9, 4e9])
    assert read.batch_units == pytest.approx([2**19] * 4)


PARTS = (
    "gas grad_acc accum_steps accum_iter grad_accum_every gradient_accumulation_iters nproc_per_node n_gpus "
    "num_nodes gpus_per_node dp_degree ddp_world_size tpu_cores num_chips gpu_type ngpu trainer.devices "
    "trainer/accumulate_grad_batches parallelism.data_parallel_shard_degree slurm_ntasks"
)


@pytest.mark.parametrize("heading", PARTS.split())
def test_a_batch_beside_devices_or_accumulation_is_asked_for(heading: str) -> None:
    """It may be a part of the whole; with D known, steps say the whole."""
    value = "8xA100" if heading == "gpu_type" else 8
    given = columns(batch_size=64, seq_len=1024, **{heading: value})
    with pytest.raises(TableError, match=f"part of the batch, beside .'{heading}'"):
        RunTable.read(given)
    read = RunTable.read({**given, "tokens": [1e9, 2e9, 3e9, 4e9]})
    assert read.batch_units == pytest.approx([2**19] * 4)


@pytest.mark.parametrize(
    ("heading", "batch"), [("global_batch_size", 2**19), ("total_batch_size", 512)]
)
def test_the_length_tells_what_a_batch_counts(heading: str, batch: int) -> None:
    """Half a million sequences are tokens, and less than one sequence are sequences."""
    read = RunTable.read(columns(seq_len=1024, **{heading: batch}))
    assert read.tokens == pytest.approx([1e9, 2e9, 3e9, 4e9])
    assert read.batch_units == pytest.approx([2**19] * 4)
    assert any("by its values beside the length" in note for note in read.notes)


def test_tokens_from_steps_are_compared_with_the_compute() -> None:
    """The batch of one of eight devices makes an eighth."""
    given = columns(train_batch_size=64, seq_len=1024)
    read = RunTable.read(given)
    assert "'train_batch_size' is taken for the whole batch, of all devices." in read.notes
    spent = {
        "total_flos": [
            7 * n * d for n, d in zip(given["params"], [1e9, 2e9, 3e9, 4e9], strict=True)
        ]
    }
    (found,) = RunTable.read({**given, **spent}).findings
    assert (found.code, found.severity) == ("tokens_differ", "warning")
    assert "D is 0.107 times" in found.message
    assert RunTable.read({**columns(**WHOLE), **spent}).findings == ()


def test_lengths_that_differ_are_asked_for() -> None:
    """None of two is taken for the other."""
    with pytest.raises(TableError, match="'seq_len', 'block_size'. differ, so none was taken"):
        RunTable.read(columns(global_batch_size=512, seq_len=1024, block_size=2048))


@pytest.mark.parametrize(("times", "severity"), [(0.01, "warning"), (0.8, "note"), (1.0, None)])
def test_tokens_are_compared_with_steps_and_batches(times: float, severity: str | None) -> None:
    """What differs by a twentieth is told, and by a factor of two it is a warning."""
    tokens = [times * D for D in (1e9, 2e9, 3e9, 4e9)]
    found = {
        d.code: d.severity for d in RunTable.read({**columns(**WHOLE), "tokens": tokens}).findings
    }
    assert found.get("tokens_differ") == severity


def test_tokens_of_some_runs_come_from_their_steps() -> None:
    """Where the others agree with theirs."""
    read = RunTable.read({**columns(**WHOLE), "tokens": [1e9, None, 3e9, 4e9]})
    assert read.tokens == pytest.approx([1e9, 2e9, 3e9, 4e9])


@pytest.mark.parametrize(
    ("text", "N", "D", "loss"),
    [
        ("Modell;Parameter (Mio);Tokens (Mrd);Val Loss\na;160;300;2,8123\nd;2.800;1.000;2,3011\n",
         [160e6, 2.8e9], [300e9, 1e12], [2.8123, 2.3011]),
        ("Modell;Parameter (Mio);Tokens (Mrd);Val Loss\na;160;300;2,812\nc;1.410;300;2,412\n",
         [160e6, 1.41e9], [300e9, 300e9], [2.812, 2.412]),
        ("model;params (M);tokens (B);loss\na;160;300;2.812\nd;2,800;1,000;2.301\n",
         [160e6, 2.8e9], [300e9, 1e12], [2.812, 2.301]),
        ('params (M),tokens (B),loss\n160,300,2.812\n"2,800","1,000",2.301\n',
         [160e6, 2.8e9], [300e9, 1e12], [2.812, 2.301]),
        ("N,D,loss\n125.000.000,2.500.000.000,3.2\n350.5M,7B,3.0\n", [125e6, 350.5e6], [2.5e9, 7e9],
         [3.2, 3.0]),
        ('N,D,loss\n1e6,2e7,"3,141"\n', [1e6], [2e7], [3.141]),
        ("N (M)\tD (B)\tloss\n1.400\t300\t2,8\n0,5\t1.000\t2,9\n", [1.4e9, 0.5e6], [300e9, 1e12],
         [2.8, 2.9]),
    ],
)  # fmt: skip
def test_points_and_commas_mean_the_same_in_a_whole_table(text, N, D, loss, tmp_path) -> None:
    """Where a loss, or any cell that can mean one thing only, says which stands before decimals."""
    path = tmp_path / "runs.csv"
    path.write_text(text)
    read = RunTable.read(path)
    assert read.params == pytest.approx(N)
    assert read.tokens == pytest.approx(D)
    assert read.loss == pytest.approx(loss)


def test_of_two_learning_rates_the_peak_is_taken() -> None:
    """The other is where its schedule ended; of two that cross none is taken."""
    row = {"n_params": 1e8, "tokens": 2e9, "val/loss": 3.0}
    nested = [{"summary": {**row, "learning_rate": 6e-5}, "config": {"learning_rate": 6e-4}}]
    flat = [{"Name": "a", "lr": 6e-5, "learning_rate": 6e-4, **row}]
    assert RunTable.read(nested).lr == RunTable.read(flat).lr == [6e-4]
    crossed = [{**row, "lr": 1e-3, "max_lr": 1e-4}, {**row, "lr": 1e-4, "max_lr": 1e-3}]
    assert RunTable.read(crossed).lr is None


def test_a_rate_that_a_tracker_calls_a_setting_is_the_peak() -> None:
    """One at the end of any other path was logged along the run."""
    row = {"n_params": 1e8, "tokens": 2e9, "val/loss": 3.0}
    assert RunTable.read([{**row, "config.optim.lr": 6e-4}]).lr == [6e-4]
    assert RunTable.read([{**row, "optim/lr": 6e-5}]).lr is None


def test_epochs_that_were_reached_go_before_those_planned() -> None:
    """``num_train_epochs`` is a limit of its own."""
    row = {"n_params": 1e8, "tokens_seen": 2e9, "val_loss": 3.0}
    read = RunTable.read([{**row, "num_train_epochs": 10, "train/epoch": 0.2}])
    assert read.unique_tokens is None


@pytest.mark.parametrize(
    ("heading", "factor"),
    [("FLOPs (total)", 1.0), ("C (6ND+attn)", 1.0), ("FLOPs (E18)", 1e18), ("zettaFLOPs", 1e21),
     ("PFLOP/s-days", 8.64e19), ("Training FLOPs [fwd + bwd]", 1.0),
     ("Compute (EFLOPs, fwd+bwd)", 1e18)],
)  # fmt: skip
def test_flops_may_have_a_remark_or_a_unit_behind_them(heading: str, factor: float) -> None:
    """As N, D and the loss may."""
    N = factor / 1.2e10  # 6·N·D is near
    read = RunTable.read([{"N": N, "D": 2e9, heading: 1.1, "loss": 3.0}])
    assert read.flops == pytest.approx([1.1 * factor])


@pytest.mark.parametrize("heading", ["Training FLOPs (×1018)", "FLOPs (Z)"])
def test_flops_in_an_unknown_unit_are_asked_for(heading: str) -> None:
    """Not taken as they are, nor passed over in silence."""
    read = RunTable.read([{"N": 1e8, "D": 2e9, heading: 1.3, "loss": 3.0}])
    assert any(repr(heading) in note for note in read.notes)
    with pytest.raises(TableError, match="'flops': '" + re.escape(heading)):
        RunTable.read([{"N": 1e8, heading: 1.3, "loss": 3.0}])


@pytest.mark.parametrize(
    "heading", ["val_loss_every", "init_val_loss", "best_val_loss_epoch", "mean_val_loss_drop"]
)
def test_what_only_speaks_of_a_loss_is_no_loss_beside_one(heading: str) -> None:
    """By its words, or by values far from those of a usual heading."""
    losses = [3.01, 2.93, 2.87, 2.8]
    rows = [{"n_params": 1e8, "tokens": 2e9, "loss": x, heading: 0.1 * x} for x in losses]
    assert RunTable.read(rows).loss.tolist() == losses


def test_layers_are_no_loss() -> None:
    """A column L of whole numbers beside a training loss."""
    rows = [{"N": 1e8, "D": d, "train_loss": 3 - d / 1e10, "L": 12} for d in (1e9, 2e9, 3e9)]
    assert RunTable.read(rows).loss == pytest.approx([2.9, 2.8, 2.7])


def test_two_spellings_of_a_quantity_fill_each_other_up() -> None:
    """Where they agree in the rows that have both."""
    rows = [
        {"n_params": 1e8, "num_params": None, "D": 2e9, "val_loss": 3.1},
        {"n_params": None, "num_params": 2e8, "D": 2e9, "val_loss": 3.0},
        {"n_params": 4e8, "num_params": 4e8, "D": 2e9, "val_loss": 2.9},
    ]
    read = RunTable.read(rows)
    assert read.params.tolist() == [1e8, 2e8, 4e8]
    assert any("is filled up from" in note for note in read.notes)


def test_the_experts_of_a_token_are_not_those_of_a_sampler() -> None:
    """``top_k`` of text generation stands in the same configs."""
    row = {"params": 8e8, "active_params": 2e8, "tokens": 2e9, "loss": 3.0, "num_experts": 16}
    read = RunTable.read([{**row, "top_k": 50, "num_experts_per_tok": 2}])
    assert read.experts == [8.0]


def test_numbers_as_python_prints_them_are_read_from_dicts_in_cells() -> None:
    """A nan, and NumPy's own numbers."""
    config = "{'n_params': np.float64(1e8)}"
    rows = [
        {"name": "a", "summary": "{'val/loss': 3.0, 'tokens': 2e9, 'grad': nan}", "config": config}
    ]
    read = RunTable.read(rows)
    assert (read.params[0], read.tokens[0], read.loss[0]) == (1e8, 2e9, 3.0)
