"""Findings about a fit; what each says and asks for is in ``findings.toml``."""

from pathlib import Path

from flops_fit.records import Findings

finding = Findings(Path(__file__).with_name("findings.toml"))
