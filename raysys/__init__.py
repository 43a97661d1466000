"""The Ray system: data, training, search, evaluation, reports."""

import os
import sys

# Ray reads these when it is imported, so they stand before the import. Without a token anybody who reaches a port of the
# cluster runs code on it; a process that has imported Ray already has made its choice.
if "ray" not in sys.modules:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
