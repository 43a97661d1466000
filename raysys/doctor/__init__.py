"""Checks of the machine, the data and the cluster, each with a remedy: `raysys.doctor.diagnose`."""
