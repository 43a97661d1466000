"""Miniature data sets for the demo and the tests.

They are twins of the eight data sets: synthetic seismograms with physics, in files with the quirks of the real ones.
"""

from raysys.miniature.obspy_examples import write_obspy_examples
from raysys.miniature.write import ALL8, write_miniatures

__all__ = ["ALL8", "write_miniatures", "write_obspy_examples"]
