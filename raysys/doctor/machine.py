"""GPUs, shared memory, open files and scratch space of this machine."""

import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from raysys.config import RunConfig
from raysys.doctor.check import Check, explain, fail, ok, warn

_MIN_SHM = 1 << 30
_MIN_FILES = 4096
_GIB = 1 << 30


def check_devices(config: RunConfig) -> Iterator[Check]:
    """Yields one line a GPU, or why there is none."""
    driver = _driver()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _gpu(index, driver)
    elif driver is None:
        yield ok("device", f"no GPU: the torch backend is used, on {os.cpu_count()} CPU cores")
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        yield warn(
            "device", f"NVIDIA driver {driver}, but CUDA_VISIBLE_DEVICES hides the GPUs", "unset CUDA_VISIBLE_DEVICES"
        )
    elif torch.version.cuda is None:
        yield warn(
            "device",
            f"NVIDIA driver {driver}, but torch {torch.__version__} is built for the CPU alone",
            f"pip install --force-reinstall torch=={torch.__version__.split('+')[0]} from the default index",
        )
    else:
        try:
            torch.cuda.init()
            found = "torch finds no GPU"
        except (RuntimeError, AssertionError) as error:
            found = explain(error)
        yield fail(
            "device",
            f"NVIDIA driver {driver}, torch {torch.__version__} for CUDA {torch.version.cuda}: {found}",
            "update the driver, or install torch for an older CUDA (https://pytorch.org)",
        )


def check_shared_memory() -> Iterator[Check]:
    """Yields whether /dev/shm has room for Ray's object store."""
    if not Path("/dev/shm").is_dir():
        yield ok("/dev/shm", "none on this platform: Ray keeps its object store in the temporary folder")
        return
    size = shutil.disk_usage("/dev/shm").total
    if size >= _MIN_SHM:
        yield ok("/dev/shm", f"{size / _GIB:.1f} GiB")
    else:
        found = f"{size / _GIB:.2f} GiB: Ray puts its object store on the disk, which is several times slower"
        yield warn("/dev/shm", found, "docker run --shm-size=8g, or an emptyDir with medium Memory on Kubernetes")


def check_open_files() -> Iterator[Check]:
    """Yields the number of files that a process may open; Ray needs several for every worker."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _MIN_FILES:
        yield ok("open files", f"{soft} (hard limit {hard})")
    else:
        yield warn("open files", f"at most {soft}, hard limit {hard}", "ulimit -n 65536")


def check_scratch() -> Iterator[Check]:
    """Yields the free space where Ray keeps sessions and spilled objects."""
    folder = os.environ.get("RAY_TMPDIR", tempfile.gettempdir())
    usage = shutil.disk_usage(folder)
    found = f"{folder}: {usage.free / _GIB:.0f} GiB free of {usage.total / _GIB:.0f}"
    if usage.free > 0.05 * usage.total:  # Ray stops spilling at 95 %
        yield ok("scratch", found)
    else:
        yield fail("scratch", f"{found}; Ray refuses to spill", "free some space, or set RAY_TMPDIR to another disk")


def _gpu(index: int, driver: str | None) -> Check:
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    found = (
        f"{properties.name}, {free / _GIB:.0f} of {total / _GIB:.0f} GiB free, compute capability "
        f"{properties.major}.{properties.minor}, driver {driver or 'unknown'}, CUDA {torch.version.cuda}"
    )
    if properties.major < 8:  # bf16 products came with compute capability 8.0
        return warn(f"cuda:{index}", f"{found}, no bf16", "--train.precision fp32, or a GPU of 2020 or later (Ampere)")
    if free < total / 2:
        return warn(f"cuda:{index}", f"{found}, bf16", "other processes hold its memory: nvidia-smi names them")
    return ok(f"cuda:{index}", f"{found}, bf16")


def _driver() -> str | None:
    """Version of the NVIDIA driver, or None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    lines = answer.stdout.split() if answer.returncode == 0 else []
    return lines[0] if lines else None
