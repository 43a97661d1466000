"""Seismograms on a disk or an object store become windows for the model.

What is there: `catalog` (names become folders), `seisbench_format` (metadata), `hdf5_layout` (where traces lie in
HDF5 files), `index` (one row a trace), `quality` (flaws of traces), `leakage` (events in two splits), `corpus` (all data
sets of a run in one table).

What the model reads: `plan` (the order of an epoch), `windows` (cut from traces), `resample` (to 100 Hz), `files` (the bytes,
with retries), `in_memory` (traces read once for all trials), `datasource` and `stream` (batches for training workers, with
or without Ray Data), `fixed_windows` (for validation and the probe).

What is written: `download` (from SeisBench's repository), `shards` (data sets in the form that is read fastest).
"""
