"""How a sweep looks while it runs."""

from flops_fit.view.live import LiveView, SilentView

__all__ = ["LiveView", "SilentView"]
