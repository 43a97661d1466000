"""Checks of the machine, the data and the cluster, each with a remedy.

Imports nothing but the standard library until `diagnose` is called, so that it also runs where packages are missing.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from raysys.config import RunConfig

INSTALL = "pip install -c constraints.txt -e ."
"""Remedy for packages that are missing or out of range."""
_DATA = "--data.root FOLDER, where the data sets are; a URL needs its package (s3:// s3fs, gs:// gcsfs) and credentials"
_STORAGE = "check the address, the credentials and the rights of this machine, or --storage FOLDER"
_RAY = (
    "check RAY_ADDRESS, the token (RAY_AUTH_TOKEN_PATH) and that both sides have the same ray and Python, "
    "or unset RAY_ADDRESS to start Ray on this machine"
)
_LONGEST = 400
"""Characters kept of an exception's text; some list every address that was tried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of the report."""

    status: Literal["OK", "WARN", "FAIL"]
    name: str
    found: str
    remedy: str = ""
    """What to do; there is one for every WARN and FAIL."""

    def __post_init__(self):
        assert bool(self.remedy) == (self.status != "OK"), f"{self.name}: a remedy belongs to WARN and FAIL"


def ok(name: str, found: str) -> Check:
    """Returns a line that says that all is well."""
    return Check(status="OK", name=name, found=found)


def warn(name: str, found: str, remedy: str) -> Check:
    """Returns a line about something that works, but not as it should."""
    return Check(status="WARN", name=name, found=found, remedy=remedy)


def fail(name: str, found: str, remedy: str) -> Check:
    """Returns a line about something that a run needs and that does not work."""
    return Check(status="FAIL", name=name, found=found, remedy=remedy)


def guarded(name: str, checks: Iterable[Check], remedy: str) -> list[Check]:
    """Returns the lines of a check, and a FAIL line with the exception's text where it ended in one.

    Args:
        name: of the check, for that line.
        checks: a generator, which is run here.
        remedy: for that line.
    """
    lines = []
    try:
        for line in checks:
            lines.append(line)  # one by one: what came before an exception is kept
    except Exception as error:  # whatever is broken, the other checks still run
        lines.append(fail(name, explain(error), remedy))
    return lines


def explain(error: Exception) -> str:
    """Returns kind and text of an exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST]}"


def render(checks: Iterable[Check]) -> str:
    """Returns one line a check, `STATUS  name  what was found -> remedy`, and a last line with the counts."""
    checks = list(checks)
    width = max((len(check.name) for check in checks), default=0)
    lines = [
        f"{check.status:4s}  {check.name:{width}s}  {check.found}" + (f" -> {check.remedy}" if check.remedy else "")
        for check in checks
    ]
    counts = Counter(check.status for check in checks)
    return "\n".join([*lines, ", ".join(f"{counts[status]} {status}" for status in ("OK", "WARN", "FAIL"))])


def failed(checks: Iterable[Check]) -> int:
    """Returns the exit code: 1 if any check failed, else 0."""
    return int(any(check.status == "FAIL" for check in checks))


def doctor(config: "RunConfig") -> int:
    """Prints every check and returns the exit code: 1 if any of them failed, else 0."""
    checks = diagnose(config)
    print(render(checks))
    return failed(checks)


def diagnose(config: "RunConfig") -> list[Check]:
    """Returns every check of this machine, the data, the storage and the cluster that a run with `config` would use.

    Never raises: a check that ends in an exception is a FAIL with the exception's text. Starts Ray on this machine
    where there is none to join, and stops it again; writes nothing but the cached indices of the data sets.
    """
    from raysys.doctor import kernels, machine, places  # only now: they import packages, which may be missing

    groups = (
        ("python", machine.check_python(), INSTALL),
        ("packages", machine.check_packages(), INSTALL),
        ("imports", machine.check_imports(), INSTALL),
        ("device", machine.check_devices(), "nvidia-smi shows whether driver and GPU work"),
        ("mlstm", kernels.check_kernels(config), "--model.backbone.kernel torch, or reference"),
        ("kernels", kernels.check_gradients(config), "--model.backbone.kernel torch"),
        ("data", places.check_data(config), _DATA),
        ("storage", places.check_storage(config), _STORAGE),
        ("/dev/shm", machine.check_shared_memory(), "mount a tmpfs there"),
        ("open files", machine.check_open_files(), "ulimit -n 65536"),
        ("scratch", machine.check_scratch(), "set RAY_TMPDIR to a folder that exists"),
        ("ray", places.check_cluster(config), _RAY),
    )
    return [line for name, checks, remedy in groups for line in guarded(name, checks, remedy)]
