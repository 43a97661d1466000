"""Compiled kernels outlive a clone of the project: they are kept where XDG keeps caches, unless TRITON_CACHE_DIR says where."""

import os
from pathlib import Path

_CACHES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("TRITON_CACHE_DIR", str(_CACHES / "raysys" / "triton"))
