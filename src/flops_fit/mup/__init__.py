"""The maximal-update parametrization (μP): one learning rate for every width, and its check."""

from flops_fit.mup.coordinate_check import Coordinate, CoordinateCheck
from flops_fit.mup.parametrization import Mup, Parametrization, ParametrizationLike
from flops_fit.mup.roles import WeightRole

__all__ = [
    "Coordinate", "CoordinateCheck", "Mup", "Parametrization", "ParametrizationLike", "WeightRole",
]  # fmt: skip
