"""Who follows runs from outside: one small protocol, and a guard that keeps a run safe from it."""

from flops_fit.track._check import check_trackers
from flops_fit.track._tracker import Tracker
from flops_fit.track._tracking import Tracking

__all__ = ["Tracker", "Tracking", "check_trackers"]
