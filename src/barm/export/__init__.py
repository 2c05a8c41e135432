"""A trained step as one file that other programs load, checked against PyTorch before it is written."""

from barm.export.agreement import Agreement
from barm.export.formats import FORMATS, export_step

__all__ = ["FORMATS", "Agreement", "export_step"]
