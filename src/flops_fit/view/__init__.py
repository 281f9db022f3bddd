"""Progress displays of a sweep."""

from flops_fit.view.live import LiveView, SilentView, SweepView

__all__ = ["LiveView", "SilentView", "SweepView"]
