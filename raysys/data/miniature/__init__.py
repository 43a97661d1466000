"""Miniatures of the eight data sets: synthetic seismograms with physics, in files with the quirks of the real ones."""

from raysys.data.miniature.obspy_examples import write_obspy_examples
from raysys.data.miniature.write import ALL8, write_miniatures

__all__ = ["ALL8", "write_miniatures", "write_obspy_examples"]
