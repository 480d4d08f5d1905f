"""Report of a suite: tables, figures and one self-contained page, made from nothing but result files."""

from fdm.report.assemble import build, check

__all__ = ["build", "check"]
