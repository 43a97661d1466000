"""Python and the packages, against the ranges of pyproject.toml.

Imports nothing but the standard library until a function is called, so that it also runs where packages are missing.
"""

import importlib
import importlib.metadata
import platform
import tomllib
from collections.abc import Iterator
from pathlib import Path

from raysys.doctor.check import Check, explain, fail, ok, render

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
_INSTALL = "pip install -c constraints.txt -e ."


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
        remedy = f"pip install -c constraints.txt '{requirement.name}{requirement.specifier}', or all: {_INSTALL}"
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
                f"import {module}", explain(error), f"install it again: pip install --force-reinstall, or {_INSTALL}"
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
        missing = [fail("packages", str(error), _INSTALL)]
    if missing:
        print(render(missing))
        raise SystemExit(1)


def _metadata() -> tuple[str, list[str]]:
    """The range of Python versions and the requirements, of the checkout or else of the installed package."""
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    if pyproject.exists():
        project = tomllib.loads(pyproject.read_text())["project"]
        return project["requires-python"], project["dependencies"]
    installed = importlib.metadata.metadata("raysys")
    return installed["Requires-Python"], installed.get_all("Requires-Dist") or []
