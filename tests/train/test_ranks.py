"""Several processes that share every batch train as one process does."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from flops_fit.distributed import Ranks, join_ranks, launched, rank_device
from flops_fit.errors import InputError
from flops_fit.train import TrainingConfig
from flops_fit.train.memory import blocks
from tests.train import _ranks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """What two ranks said, started as a user starts them."""
    out = tmp_path_factory.mktemp("ranks")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, "-m", "tests.train._ranks", str(out)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (json.loads((out / f"rank-{i}.json").read_text()) for i in range(2))
    return first, second, out


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("plain", {}), ("cut", {"microbatch": 2}), ("one sample", {"batch_size": 1})],
)
def test_two_ranks_train_as_one_does(
    both: tuple[Any, Any, Path], name: str, arguments: dict[str, Any]
) -> None:
    """Masked targets, eleven samples for two, parameters that one rank or none reaches."""
    alone = _ranks.trained(**arguments)
    for rank in both[:2]:
        assert rank[name]["state"] == "completed"
        assert rank[name]["ranks"] == 2
        assert rank[name]["tokens"] == alone["tokens"]
        assert rank[name]["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert rank[name]["loss_se"] == pytest.approx(alone["loss_se"], rel=1e-4)
        assert rank[name]["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-5)
        assert rank[name]["weights"] == pytest.approx(alone["weights"], rel=1e-4, abs=1e-5)


def test_ranks_hold_the_same_model_to_the_last_bit(both: tuple[Any, Any, Path]) -> None:
    for name in ("plain", "cut", "one sample", "short", "dropout"):
        assert both[0][name] == both[1][name]


def test_ranks_end_the_threads_of_their_groups(both: tuple[Any, Any, Path]) -> None:
    """A thread that frees a tensor when Python has gone aborts; torch keeps three, which are idle."""
    assert all(int((both[2] / f"threads-{rank}").read_text()) <= 3 for rank in range(2))


def test_dropout_differs_by_rank(both: tuple[Any, Any, Path]) -> None:
    """Were it the same for both, half of its noise would not average out; here it cannot be equal."""
    alone = _ranks.trained({"dropout": 0.3})
    assert both[0]["dropout"]["loss"] != pytest.approx(alone["loss"], rel=1e-6)
    assert both[0]["dropout"]["loss"] == pytest.approx(alone["loss"], rel=0.1)


def test_where_one_rank_is_out_of_memory_both_halve(both: tuple[Any, Any, Path]) -> None:
    """The batch stays as planned, so what is learnt does."""
    short, plain = both[0]["short"], both[0]["plain"]
    assert short["microbatch"] == 3
    assert sum("out of memory" in note for note in short["notes"]) == 1
    assert short["loss"] == pytest.approx(plain["loss"], rel=1e-5)


def test_a_rank_without_room_for_one_sample_ends_the_run_of_both(
    both: tuple[Any, Any, Path],
) -> None:
    for rank in both[:2]:
        assert rank["no room"]["state"] == "oom"
        assert "no room" in rank["no room"]["reason"]


def test_what_fails_on_one_rank_is_the_reason_on_both(both: tuple[Any, Any, Path]) -> None:
    for rank in both[:2]:
        assert rank["broken"]["state"] == "failed"
        assert rank["broken"]["reason"] == "OSError: this disk cannot be read"


def test_asked_to_stop_all_ranks_do_at_one_step_and_go_on_from_it(
    both: tuple[Any, Any, Path],
) -> None:
    """Rank 1 alone heard the signal; rank 0 alone wrote; the generators of both were kept."""
    for rank, other in zip(both[:2], ("dropout", "dropout"), strict=True):
        assert rank["stopped"]["code"] == 128 + 15
        assert rank["stopped"]["again"]["resumed"] == 1
        assert rank["stopped"]["again"]["loss"] == rank[other]["loss"]
    assert both[0]["stopped"]["kept"] == ["step-00000017"]
    assert both[1]["stopped"]["kept"] == []


def test_a_hopeless_run_is_stopped_on_both_at_one_step(both: tuple[Any, Any, Path]) -> None:
    first, second = (rank["hopeless"] for rank in both[:2])
    assert first["state"] == second["state"] == "hopeless"
    assert first["reason"] == second["reason"]
    assert first["tokens"] == second["tokens"] > 0


def test_branches_share_a_trunk_over_ranks_too(both: tuple[Any, Any, Path]) -> None:
    """The longer run begins where the shorter one left the trunk, and ends as it does alone."""
    for rank, written in zip(both[:2], (2, 0), strict=True):
        branched = rank["branched"]
        assert branched["shared"] == 12 / 40
        assert branched["runs"][1]["loss"] == branched["alone"]["loss"]
        assert branched["kept"] == written


def test_a_sweep_has_one_writer_and_every_rank_the_answer(both: tuple[Any, Any, Path]) -> None:
    first, second, _ = both
    assert first["sweep"]["runs"] == second["sweep"]["runs"]
    assert {r["state"] for r in first["sweep"]["runs"]} == {"completed"}
    assert first["sweep"]["predicted"] == second["sweep"]["predicted"]
    assert first["sweep"]["same"]
    assert second["sweep"]["same"]
    assert {"runs", "runs.csv", "sweep.json", "fit.json"} <= set(first["sweep"]["files"])
    assert second["sweep"]["files"] == []
    assert "executor" in first["sweep"]["refused"]
    assert "inprocess" in second["sweep"]["refused"]


def test_what_stops_rank_0_stops_the_others(both: tuple[Any, Any, Path]) -> None:
    assert both[0]["stopped sweep"].startswith("OutputError")
    assert both[1]["stopped sweep"].startswith("SweepError: rank 0 stopped the sweep:")


def test_weights_cut_over_ranks_train_as_whole_ones_do(both: tuple[Any, Any, Path]) -> None:
    """Layer by layer, activations computed again, in one pass or in several."""
    alone = _ranks.deep(TrainingConfig())
    for rank, name in itertools.product(both[:2], ("sharded", "sharded, cut")):
        assert rank[name]["state"] == "completed"
        assert rank[name]["tokens"] == alone["tokens"]
        assert rank[name]["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert rank[name]["loss_se"] == pytest.approx(alone["loss_se"], rel=1e-4)
        assert rank[name]["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-5)
        assert "at least one sample for each of 2" in rank["sharded, few samples"]["reason"]


def test_each_rank_keeps_its_part_and_goes_on_to_the_last_bit(both: tuple[Any, Any, Path]) -> None:
    for rank, written in zip(both[:2], (2, 0), strict=True):
        assert rank["sharded, stopped"]["kept"] == ["step-00000017"] * written
        assert rank["sharded, stopped"]["again"]["resumed"] == 1
        assert rank["sharded, stopped"]["again"]["loss"] == rank["sharded, dropout"]["loss"]


def test_only_layers_that_share_no_weight_are_cut_by_themselves() -> None:
    model = _ranks.Deep()
    assert blocks(model) == [*model.layers]
    model.layers[1][0].weight = model.head.weight = model.layers[0][0].weight
    assert blocks(model) == [model.layers[2]]


def test_sums_are_over_ranks_whatever_the_shape_and_kind(both: tuple[Any, Any, Path]) -> None:
    assert both[0]["sum"] == both[1]["sum"] == [9.0, 9.0, 12.0, 3.0]


def test_shares_of_a_batch_are_all_of_it_once() -> None:
    for samples in range(12):
        for size in range(1, 6):
            cut = [range(*Ranks(rank, size).shard(samples)) for rank in range(size)]
            assert [i for part in cut for i in part] == list(range(samples))
            assert max(map(len, cut)) - min(map(len, cut)) <= 1


@pytest.mark.parametrize(
    ("variable", "name"),
    [("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")],
)
def test_models_cut_into_pieces_are_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, name: str
) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(InputError, match=f"leaves sharding to the trainer.*{name}"):
        launched()


def test_a_launch_that_started_one_process_of_several_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``accelerate launch --cpu --num_processes 2`` leaves this environment, and one process."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(InputError, match="torchrun --nproc_per_node"):
        join_ranks("cpu")


def test_each_rank_takes_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rank_device("cuda") == "cuda"
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert rank_device("cuda") == "cuda:2"
    assert rank_device("cpu") == "cpu"
    assert torch.device(rank_device("cuda:2")).index == 2
    for device in ("cuda:0", "mps"):
        with pytest.raises(InputError, match="each rank takes its own"):
            rank_device(device)
