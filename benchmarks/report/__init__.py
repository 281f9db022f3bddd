"""From runs to a finished page."""
