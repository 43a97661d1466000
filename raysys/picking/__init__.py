"""Continuous records become picks, in the form that associators and catalogues read.

What is there: `stations` (where they stand, and what a count is worth), `formats` (files for ObsPy, PhaseNet's readers, GaMMA,
PyOcto and SeisBench).
"""
