"""What a check says, and the guard that keeps one broken check from hiding the others. Standard library only."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

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
