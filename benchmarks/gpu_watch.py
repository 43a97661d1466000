"""How busy the GPUs are that this process sees."""

import math
import os
import shutil
import subprocess
import threading
import time

import numpy as np


class GpuWatch:
    """Samples once a second how busy the GPUs are, as long as the context lasts; without nvidia-smi there are no samples."""

    def __enter__(self) -> "GpuWatch":
        self.samples: list[tuple[float, float]] = []
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop=1"]
        if mine := os.environ.get("CUDA_VISIBLE_DEVICES"):
            query.append(f"--id={mine}")
        self._process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True) if shutil.which(query[0]) else None
        if self._process:
            threading.Thread(target=self._collect, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def _collect(self) -> None:
        for line in self._process.stdout:
            if line.strip().isdigit():  # not "[N/A]"
                self.samples.append((time.monotonic(), int(line) / 100))

    def idle(self, begin: float = -math.inf, end: float = math.inf) -> float | None:
        """Returns the share of the time in which no kernel ran; None where nothing was sampled."""
        busy = [share for moment, share in self.samples if begin <= moment <= end]
        return 1 - float(np.mean(busy)) if busy else None
