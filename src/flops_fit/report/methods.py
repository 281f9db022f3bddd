"""How the answer was made, in a paragraph with the papers to cite."""

from __future__ import annotations

from flops_fit._version import __version__
from flops_fit.fit.fit import Fit
from flops_fit.flops.functions import InterpolatedFlops
from flops_fit.laws import LAWS
from flops_fit.report.figures import ReportData

_ENTRIES = {
    "hoffmann2022": """@misc{hoffmann2022,
  title = {Training Compute-Optimal Large Language Models},
  author = {Hoffmann, Jordan and Borgeaud, Sebastian and Mensch, Arthur and others},
  year = {2022}, eprint = {2203.15556}, archivePrefix = {arXiv}
}""",
    "busbridge2025": """@misc{busbridge2025,
  title = {Distillation Scaling Laws},
  author = {Busbridge, Dan and Shidani, Amitis and Weers, Floris and Ramapuram, Jason and
    Littwin, Etai and Webb, Russ},
  year = {2025}, eprint = {2502.08606}, archivePrefix = {arXiv}
}""",
    "kaplan2020": """@misc{kaplan2020,
  title = {Scaling Laws for Neural Language Models},
  author = {Kaplan, Jared and McCandlish, Sam and Henighan, Tom and others},
  year = {2020}, eprint = {2001.08361}, archivePrefix = {arXiv}
}""",
    "muennighoff2023": """@misc{muennighoff2023,
  title = {Scaling Data-Constrained Language Models},
  author = {Muennighoff, Niklas and Rush, Alexander M. and Barak, Boaz and others},
  year = {2023}, eprint = {2305.16264}, archivePrefix = {arXiv}
}""",
    "sardana2024": """@misc{sardana2024,
  title = {Beyond Chinchilla-Optimal: Accounting for Inference in Language Model Scaling Laws},
  author = {Sardana, Nikhil and Portes, Jacob and Doubov, Sasha and Frankle, Jonathan},
  year = {2024}, eprint = {2401.00448}, archivePrefix = {arXiv}
}""",
    "huber1964": """@article{huber1964,
  title = {Robust Estimation of a Location Parameter},
  author = {Huber, Peter J.},
  journal = {The Annals of Mathematical Statistics}, volume = {35}, number = {1}, pages = {73--101},
  year = {1964}, doi = {10.1214/aoms/1177703732}
}""",
    "mackinnon1985": """@article{mackinnon1985,
  title = {Some Heteroskedasticity-Consistent Covariance Matrix Estimators with
    Improved Finite Sample Properties},
  author = {MacKinnon, James G. and White, Halbert},
  journal = {Journal of Econometrics}, volume = {29}, number = {3}, pages = {305--325},
  year = {1985}, doi = {10.1016/0304-4076(85)90158-7}
}""",
}


def methods(m: ReportData) -> tuple[str, tuple[str, ...]]:
    """A paragraph that could stand in a paper, and the keys of the papers that it cites."""
    fit = m.fit
    used = ["hoffmann2022"]
    budgets = len(set(fit.runs.budget))
    told = [
        f"We fitted {fit.law.formula} to {len(fit.runs)} runs at {budgets} compute budgets from "
        f"{fit.runs.flops.min():.3g} to {fit.largest_compute:.3g} training FLOPs "
        "(approach 3 of [hoffmann2022])."
    ]
    if fit.law.name == "kappa" or any(a.law.name == "kappa" for a in fit.alternatives):
        used.append("busbridge2025")
        verb = "is that of" if fit.law.name == "kappa" else "was chosen beside the one of"
        told.append(f"The form {verb} [busbridge2025].")
    if fit.law.name in ("muennighoff", "kaplan"):
        used.append({"muennighoff": "muennighoff2023", "kaplan": "kaplan2020"}[fit.law.name])
        told.append(f"The form is that of [{used[-1]}].")
    told.append(_residuals(fit, used))
    if fit.window.used and fit.window.factor is not None:
        told.append(
            f"Runs within a factor {fit.window.factor:.3g} of the optimal size at their compute were fitted."
        )
    told.append(_answer(fit))
    told.append(_intervals(m, used))
    if fit.approaches[2].headline and fit.law.name in LAWS:
        used.append("sardana2024")
        told.append(
            "The optimum over training and use, where it was asked for, is that of [sardana2024]."
        )
    told.append(f"Training FLOPs per {fit.runs.unit.removesuffix('s')}: {fit.flops.description}.")
    if not isinstance(fit.flops, InterpolatedFlops):
        used.append("kaplan2020")
        told.append("C = F(N)·D in the manner of [kaplan2020].")
    if fit.excluded:
        told.append(f"{len(fit.excluded)} runs were left out, each with its reason.")
    told.append(f"All computations were made with flops-fit {__version__} [flopsfit].")
    return " ".join(t for t in told if t), tuple(dict.fromkeys(used))


def _residuals(fit: Fit, used: list[str]) -> str:
    of = "the logarithm of the held-out loss" if fit.loss_space == "log" else "the held-out loss"
    if fit.delta == float("inf"):
        return f"Least squares on residuals of {of}."
    used.append("huber1964")
    return (
        f"The sum of Huber's loss [huber1964] with δ = {fit.delta:.2g} on residuals of {of} was "
        f"minimised from {fit.starts} starts, of which {fit.starts_agree} agree."
    )


def _answer(fit: Fit) -> str:
    name = next((a.name for a in fit.approaches if a.headline), None)
    if name == "surface":
        return "The optimum minimises the fitted loss over N with D = C/F(N)."
    if name is None:
        return ""
    what = {
        "isoflop": "minima of IsoFLOP parabolas (approach 2",
        "envelope": "envelope (approach 1",
    }
    return f"The optimum is read off a power law through the {what[name]} of [hoffmann2022])."


def _intervals(m: ReportData, used: list[str]) -> str:
    found = {p.interval_method for p in m.predictions}
    if "HC3 sandwich" in found:
        used.append("mackinnon1985")
        return (
            f"Intervals ({100 * m.level:g} %) use an HC3 sandwich covariance [mackinnon1985] with "
            "Student's t and the delta method on the log scale."
        )
    if "case bootstrap" in found:
        return f"Intervals ({100 * m.level:g} %) are percentiles of a case bootstrap."
    return "No interval is given."


def bibtex(keys: tuple[str, ...]) -> str:
    """Entries of these papers and of the software."""
    software = (
        "@software{flopsfit,\n  title = {flops-fit: compute-optimal training for any PyTorch model},\n"
        f"  author = {{The flops-fit developers}}, version = {{{__version__}}}\n}}"
    )
    return "\n\n".join([*(_ENTRIES[key] for key in keys), software])
