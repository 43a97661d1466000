"""Continuous records become picks, in the form that associators and catalogues read.

In the order of the data: `record` (any stream on one grid of time), `curves` (probabilities along it), `picks`, `stream` (all three),
`seisbench_model` (the same as a model of SeisBench's), `archive` and `run` (station-days by Ray), `stations` and `formats` (files for what
comes next). `trained` and `export` are pickers on disk, `example` a stretch with curves for the report.
"""
