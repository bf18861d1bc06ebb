"""One self-contained HTML page about a run: results, curves and samples."""

from lit_instructgpt.report.page import write_report
from lit_instructgpt.report.scalars import read_scalars

__all__ = ["read_scalars", "write_report"]
