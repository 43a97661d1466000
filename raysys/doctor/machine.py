"""This machine: Python and its packages, GPUs, shared memory, open files and scratch space.

Imports nothing but the standard library until a function is called, so that it also runs where packages are missing.
"""

import importlib
import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from raysys.doctor import INSTALL, Check, explain, fail, ok, render, warn

_MODULES = (
    "torch",
    "torch.utils.tensorboard",
    "triton",
    "ray.train",
    "ray.tune",
    "ray.data",
    "xlstm",
    "mlstm_kernels",
    "numpy",
    "scipy",
    "sklearn",
    "pyarrow",
    "h5py",
    "fsspec",
    "safetensors",
    "optuna",
    "vector_quantize_pytorch",
    "matplotlib",
)
"""Imported to find broken installations. Not seisbench: it takes seconds, and only downloads and exports need it."""
_MIN_SHM = 1 << 30
_MIN_FILES = 4096
_GIB = 1 << 30


def check_python() -> Iterator[Check]:
    """Yields whether this Python is in the range that the project asks for."""
    from packaging.specifiers import SpecifierSet  # here, and not above: it may be missing itself

    wanted, found = _metadata()[0], platform.python_version()
    if SpecifierSet(wanted).contains(found, prereleases=True):
        yield ok("python", f"{found} on {platform.platform(terse=True)} {platform.machine()}")
    else:
        yield fail("python", f"{found}, but the project needs {wanted}", f"make a virtual environment with {wanted}")


def check_packages() -> Iterator[Check]:
    """Yields one line for all packages that are in range, and one for each that is missing or out of range."""
    from packaging.requirements import Requirement

    good = []
    for requirement in map(Requirement, _metadata()[1]):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        remedy = f"pip install -c constraints.txt '{requirement.name}{requirement.specifier}', or all: {INSTALL}"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield fail(requirement.name, f"not installed, wanted {requirement.specifier or 'any version'}", remedy)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            good.append(f"{requirement.name} {version}")
        else:
            yield fail(requirement.name, f"{version}, but the project needs {requirement.specifier}", remedy)
    yield ok("packages", ", ".join(good))


def check_imports() -> Iterator[Check]:
    """Yields one line for all packages that import, and one for each that does not."""
    broken = 0
    for module in _MODULES:
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken binary may raise anything
            broken += 1
            yield fail(
                f"import {module}", explain(error), f"install it again: pip install --force-reinstall, or {INSTALL}"
            )
    yield ok(
        "imports", f"{len(_MODULES) - broken} of {len(_MODULES)} modules import, TensorBoard and Matplotlib among them"
    )


def require_packages() -> None:
    """Does nothing where every package is installed; ends the program with their lines where some are not.

    Raises:
        SystemExit: packages are missing, and what needs them could not even be imported.
    """
    try:
        missing = [check for check in check_packages() if check.found.startswith("not installed")]
    except ModuleNotFoundError as error:
        missing = [fail("packages", str(error), INSTALL)]
    if missing:
        print(render(missing))
        raise SystemExit(1)


def check_devices() -> Iterator[Check]:
    """Yields one line a GPU, or why there is none."""
    import torch

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


def _metadata() -> tuple[str, list[str]]:
    """The range of Python versions and the requirements, of the checkout or else of the installed package."""
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    if pyproject.exists():
        project = tomllib.loads(pyproject.read_text())["project"]
        return project["requires-python"], project["dependencies"]
    installed = importlib.metadata.metadata("raysys")
    return installed["Requires-Python"], installed.get_all("Requires-Dist") or []


def _gpu(index: int, driver: str | None) -> Check:
    import torch

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
