"""No service is reached over a network in a test."""

from tests.track.conftest import offline

__all__ = ["offline"]
