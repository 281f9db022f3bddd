"""Learning rate and batch fitted with the law."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from flops_fit import fit_runs, reference
from flops_fit.errors import InputError, InputTypeError, TableError
from flops_fit.fit import backtest
from flops_fit.fit.experts import by_active
from flops_fit.fit.hparam_rule import tuned_losses
from flops_fit.fit.ridge import bent, straight
from flops_fit.fit.sampler import sample
from flops_fit.fit.valley import regret
from flops_fit.fit.varied import varied
from flops_fit.records import ParamCount
from flops_fit.report.tuning import rule_table
from flops_fit.table import RunTable
from tests.fit import _experts
from tests.fit._valley import LAW, VALLEY, logs, memory, rule, sweep


@pytest.fixture(scope="module")
def fit():
    return fit_runs(sweep())


def test_slopes_of_the_regret_are_its_derivatives():
    rng = np.random.default_rng(0)
    at = list(rng.normal(size=(5, 6)))
    slopes = regret(VALLEY, *at, slopes=True).slopes[0]
    assert regret(VALLEY, *at[:4], slopes=True).slopes[0] == pytest.approx(slopes[:11])
    for i in range(15):
        step = np.eye(15)[i] * 1e-6
        difference = regret(VALLEY + step, *at).value - regret(VALLEY - step, *at).value
        assert slopes[i] == pytest.approx(difference[0] / 2e-6, abs=1e-7)


def test_the_coordinates_that_chains_move_in_are_the_law_s_and_keep_densities():
    at = np.random.default_rng(1).normal(scale=0.5, size=(3, 9))
    q, slopes = bent(at)
    assert straight(q) == pytest.approx(at)
    for i, step in enumerate(np.eye(9)[:6] * 1e-6):
        difference = (bent(at + step)[0] - bent(at - step)[0])[:, :6] / 2e-6
        assert slopes[:, :, i] == pytest.approx(difference, abs=1e-7)
    assert np.abs(np.linalg.det(slopes)) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def decayed():
    """Runs that differ in weight decay too."""
    return fit_runs(sweep(decay=0.1, seed=1))


def test_weight_decay_is_a_third_setting_of_the_valley(decayed):
    found, (N, D) = decayed.hparams, (2e8, 2e10)
    assert found.names == ("lr", "batch_units", "weight_decay")
    assert found.valley.mixing < 1.05
    for name, true in (("memory_units", -0.45), ("memory_params", 0.4)):
        low, high = found.exponents_at(0.99)[name].interval
        assert low < true < high
    best = found.optimal(N, D, level=0.99)
    at_both = best.batch_units / (best.lr * memory(N, D) * D)
    assert best.decay_interval[0] < at_both < best.decay_interval[1]
    assert best.weight_decay == pytest.approx(at_both, rel=0.2)
    given = best.lr, best.batch_units
    off = found.regret(N, D, *given, weight_decay=6 * best.weight_decay, level=0.99)
    extra = VALLEY[0, 14]
    low, high = off.interval
    assert low < math.expm1(math.exp(extra) * math.log(6) ** 2) < high
    assert found.regret(N, D, *given, weight_decay=best.weight_decay).value < 0.004
    with pytest.raises(InputError, match="expected weight_decay, which the runs varied"):
        found.regret(N, D, *given)
    low, high = decayed.predict(1e21).intervals["optimal_params"]
    assert low < LAW.optimal(1e21).params < high


def test_the_recipe_and_the_table_say_the_weight_decay(decayed):
    best = decayed.hparams.optimal(2e8, 2e10)
    chosen = decayed.recipe(ParamCount(*[int(2e8)] * 4), 2e10, "tokens")
    assert chosen.weight_decay == pytest.approx(best.weight_decay, rel=1e-3)
    assert chosen.lr == pytest.approx(best.lr, rel=1e-3)
    assert "τ ∝ N^" in str(decayed.hparams)
    assert "Weight decay" in rule_table(decayed, [decayed.predict(1e21)]).markdown()
    again = RunTable.read(decayed.runs.to_dicts())
    assert again.memory == pytest.approx(decayed.runs.memory)
    assert decayed.to_dict()["hparams"]["curvature"].keys() == set(decayed.hparams.names)


def test_a_weight_decay_that_follows_from_the_rest_is_no_setting_of_its_own():
    runs = sweep()
    for decay in (np.full(35, 0.1), 1e-4 / runs["lr"], runs["batch_tokens"] / 1e6 / runs["lr"]):
        assert varied(RunTable.read({**runs, "weight_decay": decay})) == ("lr", "batch_units")
    free = sweep(decay=0.1)
    assert varied(RunTable.read(free)) == ("lr", "batch_units", "weight_decay")
    assert varied(RunTable.read({k: v for k, v in free.items() if k != "batch_tokens"})) == ("lr",)
    fixed = fit_runs({k: v for k, v in free.items() if k != "batch_tokens"})
    assert "decay_differs" in {d.code for d in fixed.diagnostics}
    samples = {k: v for k, v in free.items() if k != "batch_tokens"}
    in_samples = fit_runs({**samples, "batch_size": free["batch_tokens"] / 2048})
    whole = fit_runs(free).hparams.optimal(2e8, 2e10)
    assert in_samples.hparams.names == ("lr", "batch_units", "weight_decay")
    assert in_samples.hparams.optimal(2e8, 2e10).weight_decay == pytest.approx(whole.weight_decay)
    with pytest.raises(InputError, match="beside"):
        fit_runs(free, hparams=("lr", "weight_decay"))


def test_chains_agree(fit):
    valley = fit.hparams.valley
    assert valley.sampler.startswith("Hamiltonian")
    assert valley.mixing < 1.05


def test_a_power_law_need_not_go_on_beyond_the_runs(fit):
    """The interval grows over that of the power law's own draws, more so far off, around the same best."""
    rule, draws, middle = fit.hparams, fit.hparams.valley.draws, fit.hparams.valley.centre
    ratios = []
    for N, D in ((2e8, 2e10), (2e9, 2e11)):
        x, y = np.log([N, D]) - middle[:2]
        own = draws[:, 4] + draws[:, 5] * y + draws[:, 6] * x
        low, high = np.quantile(own, [0.05, 0.95])
        told = rule.optimal(N, D)
        assert math.log(told.batch_units) == pytest.approx(np.mean(own) + middle[3])
        ratios.append(math.log(told.batch_interval[1] / told.batch_interval[0]) / (high - low))
    assert 1.0 < ratios[0] < 1.6
    assert ratios[1] > 1.3 * ratios[0]


def test_that_rates_matter_less_in_long_runs_is_found():
    """Seen in runs of many lengths: the curvature falls with D^−.6, twice as fast as is expected."""
    rng, falls = np.random.default_rng(5), VALLEY.copy()
    falls[0, 10] = -0.6
    runs = sweep(*rule(2e8, 2e10), jitter=4.0)
    N, D = (np.tile(runs[name], 4) for name in ("params", "tokens"))
    lr, batch = (v * 4.0 ** rng.uniform(-1, 1, len(N)) for v in rule(N, D))
    R = regret(falls, *logs(N, D, lr, batch)).value[0]
    loss = LAW.loss(N, D) * np.exp(R + 0.002 * rng.normal(size=len(N)))
    table = {"params": N, "tokens": D, "loss": loss, "lr": lr, "batch_tokens": batch}
    found = fit_runs(table).hparams.valley.draws[:, 10]
    assert np.quantile(found, 0.01) < -0.6 < np.quantile(found, 0.99)
    assert np.mean(found) < -0.45


def test_an_untuned_sweep_gives_the_optimum_of_a_tuned_one(fit):
    """At one rate for all sizes the plain fit is off by a quarter, and the joint one is not."""
    C = 1e21
    truth = math.log(LAW.optimal(C).params)
    plain = fit_runs(sweep(jitter=1.0), hparams=None)
    joint = fit.predict(C)
    low, high = joint.intervals["optimal_params"]
    assert abs(math.log(plain.predict(C).optimal_params) - truth) > 0.2
    assert abs(math.log(joint.optimal_params) - truth) < 0.15
    assert math.log(low) < truth < math.log(high)


def test_the_rule_is_found_with_intervals(fit):
    best, C = LAW.optimal(1e20), 1e20
    found = fit.hparams.optimal(best.params, C / (6 * best.params))
    lr, batch = rule(best.params, C / (6 * best.params))
    assert found.lr_interval[0] < lr < found.lr_interval[1]
    assert found.batch_interval[0] < batch < found.batch_interval[1]
    true = {"lr_params": -0.71, "lr_units": 0.33, "batch_units": 0.67, "batch_params": -0.24}
    for name, value in true.items():
        low, high = fit.hparams.exponents_at(0.99)[name].interval
        assert low < value < high
    assert 0 <= found.regret < found.regret_below < 0.02


def test_the_regret_of_a_rate_is_its_excess_loss(fit):
    N, D = 2e8, 2e10
    lr, batch = rule(N, D)
    true = math.expm1(regret(VALLEY, *logs(N, D, 4 * lr, batch)).value[0, 0])
    assert fit.hparams.regret(N, D, lr, batch).value < 0.004
    low, high = fit.hparams.regret(N, D, 4 * lr, batch, level=0.99).interval
    assert low < true < high
    assert "extrapolation" in {d.code for d in fit.hparams.regret(1e12, D, lr, batch).diagnostics}


def test_a_regret_is_of_all_that_the_runs_varied(fit):
    with pytest.raises(InputError, match="regret: expected batch_units, which the runs varied"):
        fit.hparams.regret(2e8, 2e10, 1e-3)


def test_the_rule_is_the_recipe_of_a_next_sweep(fit):
    count = ParamCount(total=3 * 10**8, non_embedding=2 * 10**8, matmul=1, active=1)
    hparams = fit.recipe(count, 1e10, "tokens")
    best = fit.hparams.optimal(3e8, 1e10)
    assert hparams.lr == pytest.approx(best.lr)
    assert hparams.batch_units == pytest.approx(best.batch_units)


def test_losses_are_those_at_the_best_and_the_measured_ones_are_kept(fit):
    rows = fit.to_dict()["runs"]
    given = sweep()
    assert sorted(r["loss"] for r in rows) == pytest.approx(sorted(given["loss"]))
    assert np.all(fit.runs.loss <= fit.runs.loss * np.exp(fit.runs.regret))
    said = next(d for d in fit.diagnostics if d.code == "hparams")
    assert "lr ∝ N^" in said.message
    record = json.loads(json.dumps(fit.to_dict()))["hparams"]
    assert record["varied"] == ["lr", "batch_units"]
    assert record["exponents"]["lr_params"]["interval"][0] < -0.4
    assert record["prior"]["source"]


def test_cells_that_differ_in_rate_are_no_repeats(fit):
    table = RunTable.read(sweep())
    twice = {n: np.concatenate([v, v]) for n, v in sweep().items()}
    other = sweep(seed=1)
    for name in ("loss", "lr", "batch_tokens"):
        twice[name] = np.concatenate([sweep()[name], other[name]])
    fitted = fit_runs(twice)
    assert len(fitted.hparams.valley.draws) == 400
    assert fitted.hparams.runs == 2 * len(table)
    assert not {"seed_noise", "settings_differ"} & {d.code for d in fitted.diagnostics}


def test_a_recipe_is_not_taken_for_variation():
    """One rate for all, one a size, one a budget, or a power law, is no experiment on rates."""
    table = RunTable.read(sweep())
    N, D, C = table.params, table.tokens, table.flops
    by_size = np.repeat([2e-3, 8e-4, 3e-3, 3e-4, 1e-3], 7)
    of_sizes = replace(table, params=np.repeat(N[:5], 7))
    recipes = {
        "constant": np.full_like(N, 1e-3), "power law": 2 * N**-0.7 * D**0.3,
        "capped": np.minimum(0.002, 3 * N**-0.4), "compute": 1e-3 * (C / 1e18) ** -0.2,
    }  # fmt: skip
    for lr in recipes.values():
        assert varied(replace(table, lr=lr, batch_units=None)) == ()
    assert varied(replace(of_sizes, lr=by_size, batch_units=None)) == ()
    assert varied(table) == ("lr", "batch_units")


def test_rates_that_follow_the_size_of_mixtures_are_not_varied_on_purpose() -> None:
    """A recipe may follow N_total or N_active; at like N and D experts then have other rates."""
    made = _experts.rows(0.003)
    for name in ("params", "active_params"):
        for row in made:
            row["lr"] = 30.0 * row[name] ** -0.5 * row["tokens"] ** 0.1
        table = RunTable.read(made)
        assert varied(table) == varied(by_active(table)) == ()
    for i, row in enumerate(made):
        row["lr"] *= (1.0, 3.0, 0.4, 1.5)[i % 4]
    assert varied(RunTable.read(made)) == ("lr",)


def test_tables_without_rates_are_fitted_as_before():
    runs = reference.runs("llama3_2024")
    fits = [fit_runs(runs, hparams=h) for h in ("auto", None)]
    assert fits[0].to_dict() == fits[1].to_dict()
    assert fits[0].hparams is None
    with pytest.raises(InputError, match="recipe: expected runs that vary"):
        fits[0].recipe  # noqa: B018
    with pytest.raises(TableError, match="expected a column lr"):
        fit_runs(runs, hparams=("lr",))
    with pytest.raises(InputTypeError, match="hparams=: expected 'auto'"):
        fit_runs(runs, hparams="lr")
    with pytest.raises(InputError, match="expected names among"):
        fit_runs(runs, hparams=("lr", "beta2"))


def test_a_rate_alone_is_fitted_where_the_batch_follows_a_rule():
    runs = sweep()
    N, D = runs["params"], runs["tokens"]
    _, batch = rule(N, D)
    R = regret(VALLEY, *logs(N, D, runs["lr"], batch)).value[0]
    noise = 0.002 * np.random.default_rng(2).normal(size=len(N))
    table = {**runs, "loss": LAW.loss(N, D) * np.exp(R + noise), "batch_tokens": batch}
    found = tuned_losses(RunTable.read(table), "auto", "total")[1]
    assert found.names == ("lr",)
    best = found.optimal(2e8, 2e10)
    assert best.batch_units is None
    assert best.lr_interval[0] < rule(2e8, 2e10)[0] < best.lr_interval[1]
    assert set(found.exponents) == {"lr_params", "lr_units"}


def test_runs_without_a_rate_are_left_out_where_most_have_one_and_are_named():
    runs = sweep()
    runs["lr"][[3, 9, 17]] = np.nan, np.inf, 0.0
    fit = fit_runs(runs)
    assert fit.hparams.names == ("lr", "batch_units")
    assert len(fit.runs) == 32
    assert {e.reason for e in fit.runs.excluded} == {"it has no lr"}
    runs["lr"][:10] = np.nan
    assert fit_runs(runs).hparams.names == ("batch_units",)


def test_far_from_all_runs_a_rule_says_that_nothing_is_known(fit):
    told = fit.hparams.optimal(1e3, 1e3)
    assert told.lr_interval[0] < 1e-2 * told.lr_interval[1]
    assert told.regret_below > 1.0


def test_diverged_runs_are_information():
    """A run without a loss, but with a rate, says that its rate is too high."""
    runs = sweep(lr=3e-4, batch=2.0**18)
    N, D = runs["params"], runs["tokens"]
    rate = rule(N, D)[0] * 12
    lost = {**{k: v[::3] for k, v in runs.items()}, "lr": rate[::3]}
    lost["loss"] = np.full(len(lost["lr"]), np.nan)
    both = {k: np.concatenate([runs[k], lost[k]]) for k in runs}
    rules = [tuned_losses(RunTable.read(t), "auto", "total")[1] for t in (runs, both)]
    assert [r.censored for r in rules] == [0, len(lost["lr"])]
    at, high = (2e8, 2e10), 12 * rule(2e8, 2e10)[0]
    widths = [np.diff(np.log(r.optimal(*at).lr_interval))[0] for r in rules]
    assert widths[1] < widths[0]
    assert rules[1].regret(*at, high, rule(*at)[1]).interval[0] > 0.01


def test_a_run_stopped_as_hopeless_says_how_bad_its_rate_is_at_least():
    """Its bound is kept in a table with its planned D, and raises what its rate is known to cost."""
    runs = sweep(lr=3e-4, batch=2.0**18)
    N, D, C = runs["params"], runs["tokens"], runs["flops"]
    bound = 1.3 * LAW.loss(N, D)
    lost = {**runs, "lr": rule(N, D)[0] * 12, "loss": np.full(len(N), np.nan), "flops": 0.6 * C}
    lost |= {"tokens": 0.6 * D, "state": ["hopeless"] * len(N), "loss_at_least": bound}
    done = {**runs, "state": ["completed"] * len(N), "loss_at_least": np.full(len(N), np.nan)}
    both = {k: np.concatenate([done[k], lost[k][::3]]) for k in done}
    both["budget"] = np.concatenate([C, C[::3]])
    table = RunTable.read(both)
    assert np.array(table.censored)[:, 1] == pytest.approx(D[::3])
    assert np.array(table.censored)[:, 4] == pytest.approx(bound[::3])
    assert {(e.by_outcome, e.loss) for e in table.excluded} == {(True, None)}
    assert [e.at_least for e in table.excluded] == pytest.approx(bound[::3])
    unknown = RunTable.read({**both, "loss_at_least": np.full(len(both["lr"]), np.nan)})
    rules = [tuned_losses(t, "auto", "total")[1] for t in (unknown, table)]
    at, high = (2e8, 2e10), 12 * rule(2e8, 2e10)[0]
    costs = [r.regret(*at, high, rule(*at)[1]) for r in rules]
    assert costs[1].value > costs[0].value
    assert costs[1].interval[0] > 0.15


def test_batches_of_sequences_make_no_recipe_for_tokens(fit):
    runs = sweep()
    runs["batch_size"] = runs.pop("batch_tokens") / 2048
    assert RunTable.read(runs).batch_unit == "sequences"
    with pytest.raises(InputError, match="expected batches in tokens"):
        replace(fit.hparams, batch_unit="sequences").recipe  # noqa: B018
    in_tokens = RunTable.read({**runs, "seq_len": np.full(len(runs["lr"]), 2048.0)})
    assert in_tokens.batch_unit == ""
    assert in_tokens.batch_units == pytest.approx(sweep()["batch_tokens"])
    by_steps = RunTable.read({**runs, "steps": runs["tokens"] / sweep()["batch_tokens"]})
    assert by_steps.batch_unit == ""
    assert by_steps.batch_units == pytest.approx(sweep()["batch_tokens"])


def test_images_are_their_own_units_so_that_their_batches_make_a_recipe():
    runs = sweep()
    runs["batch_size"] = runs.pop("batch_tokens")
    said = {**runs, "unit": ["images"] * len(runs["lr"])}
    counted = {**runs, "steps": runs["tokens"] / runs["batch_size"]}  # one unit a sample
    for table in map(RunTable.read, (said, counted)):
        assert table.batch_unit == ""
        assert table.batch_units == pytest.approx(runs["batch_size"])


def test_runs_under_mup_are_expected_to_share_one_rate():
    runs = sweep()
    scaled = RunTable.read({**runs, "parametrization": ["muP"] * len(runs["lr"])})
    assert scaled.mup
    assert not RunTable.read(runs).mup
    rules = [tuned_losses(RunTable.read(t), "auto", "total")[1] for t in (scaled, runs)]
    assert rules[0].valley.prior.a1[0] == 0
    assert rules[0].exponents["lr_params"].value > rules[1].exponents["lr_params"].value


def test_the_sampler_draws_a_curved_posterior():
    """A banana whose normal approximation misses half of it: x ~ N(0, 1), y ~ N(x², 0.5²)."""

    def potential(q):
        x, y = q.T
        off = (y - x * x) / 0.5
        slopes = np.column_stack([x - off * 2 * x / 0.5, off / 0.5])
        return 0.5 * x**2 + 0.5 * off**2, slopes

    # From one start to the next, and from machine to machine, chains differ.
    starts = [np.full(2, i * 1e-9) for i in range(5)]
    every = [sample(potential, start, np.diag([1.0, 0.5**-2]), 400, 35) for start in starts]
    drawn = sorted(every, key=lambda d: d.mixing)[2]
    x, y = drawn.values.T
    assert abs(np.mean(x)) < 0.25
    assert 0.8 < np.std(x) < 1.2
    assert 0.7 < np.mean(y) < 1.4
    assert drawn.mixing < 1.2


def test_a_held_out_budget_is_judged_at_its_best_rates():
    """The largest budget's runs, trained off the rule, are compared as the others were fitted."""
    tested = backtest(sweep(), 1)
    assert tested.passed
    (held,) = tested.held_out
    assert held.params_inside
    assert tested.fit.hparams.runs == 28


def test_a_batch_alone_is_fitted_where_the_rate_follows_a_rule():
    runs = sweep()
    N, D = runs["params"], runs["tokens"]
    rate, _ = rule(N, D)
    R = regret(VALLEY, *logs(N, D, rate, runs["batch_tokens"])).value[0]
    noise = 0.002 * np.random.default_rng(2).normal(size=len(N))
    table = {**runs, "loss": LAW.loss(N, D) * np.exp(R + noise), "lr": rate}
    found = tuned_losses(RunTable.read(table), "auto", "total")[1]
    assert found.names == ("batch_units",)
    best, (_, batch) = found.optimal(2e8, 2e10), rule(2e8, 2e10)
    assert best.lr is None
    assert best.batch_interval[0] < batch < best.batch_interval[1]
    assert str(found).startswith("batch ∝ ")
    cost = found.regret(2e8, 2e10, batch_units=8 * batch, level=0.99).interval
    true = regret(VALLEY, *logs(2e8, 2e10, rule(2e8, 2e10)[0], 8 * batch)).value[0, 0]
    assert cost[0] < math.expm1(true) < cost[1]


def test_chains_that_do_not_agree_are_told(fit):
    apart = replace(fit.hparams, valley=replace(fit.hparams.valley, mixing=1.5))
    assert "hparams_draws" in {d.code for d in apart.diagnostics(fit.runs)}
    agree = replace(fit.hparams, valley=replace(fit.hparams.valley, mixing=1.0))
    assert "hparams_draws" not in {d.code for d in agree.diagnostics(fit.runs)}


PRECISION = np.array([[4.0, 1.2], [1.2, 0.9]])


def normal(q):
    """Around (1, −2)."""
    off = q - np.array([1.0, -2.0])
    return 0.5 * np.sum((off @ PRECISION) * off, axis=1), off @ PRECISION


def test_a_normal_posterior_is_drawn_by_importance():
    drawn = sample(normal, np.array([1.0, -2.0]), PRECISION, 2000, 35)
    assert drawn.method.startswith("importance sampling")
    assert drawn.values.mean(axis=0) == pytest.approx([1.0, -2.0], abs=0.15)
    assert np.cov(drawn.values.T) == pytest.approx(np.linalg.inv(PRECISION), rel=0.2)


def test_of_many_runs_the_curvature_at_the_mode_says_enough():
    """Where importance weights are uneven too: a Hessian ten times too flat."""
    drawn = sample(normal, np.array([1.0, -2.0]), PRECISION / 1e4, 2000, 501)
    assert drawn.method == "normal around the mode"
    assert drawn.values.mean(axis=0) == pytest.approx([1.0, -2.0], abs=15)
    assert np.cov(drawn.values.T) == pytest.approx(1e4 * np.linalg.inv(PRECISION), rel=0.2)
