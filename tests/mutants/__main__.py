"""Plants the faults of the lists beside this file, one at a time, and counts those that the tests see.

A fault is two lines of a list: a file, and `old ==> new`, where `old` stands once in that file (a `\\n` is a line break).
A fault is seen when pytest fails. The tests of its own file run first, then those of its folder, then all; so a fault
that is seen costs seconds, and one that is not the time of the suite.

Usage: python -m tests.mutants [--slow] [NAME ...], where a name is a part of a path (`raysys/data`, `data/plan`).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[2]
ARROW = " ==> "
LIMIT_S = 900
"""After which a run counts as failed: the fault made something endless."""
NO_TESTS = 5
"""What pytest returns where no test has the marks that are asked for."""
AT_ONCE = 2
"""Copies of the checkout that are tested side by side."""


@dataclass(frozen=True)
class Fault:
    """One change that the tests should see."""

    file: str
    old: str
    new: str

    def planted(self, text: str) -> str:
        """Returns the text of the file with the fault.

        Raises:
            ValueError: the old text does not stand exactly once in the file.
        """
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.file}: {self.old!r} stands there {count} times and not once: mend the list")
        return text.replace(self.old, self.new)

    def __str__(self) -> str:
        return f"{self.file}: {self.old!r} -> {self.new!r}"


def read_faults() -> list[Fault]:
    """Returns the faults of all lists."""
    faults = []
    for path in sorted(Path(__file__).parent.glob("*.txt")):
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        for file, change in zip(lines[::2], lines[1::2], strict=True):
            old, new = (part.replace("\\n", "\n") for part in change.split(ARROW))
            faults.append(Fault(file, old, new))
    return faults


def nearest_tests(file: str) -> list[str]:
    """Returns what pytest runs, the tests nearest to a file first."""
    parts = Path(file).with_suffix("").parts
    parts = parts[1:] if parts[0] == "raysys" else parts
    if parts[:2] == ("model", "ops"):
        parts = parts[:3]
    near = [Path("tests", *parts[:-1], f"test_{parts[-1]}.py"), Path("tests", *parts[:-1]), Path("tests")]
    return list(dict.fromkeys(str(path) for path in near if (ROOT / path).exists()))


def run_tests(copy: Path, marks: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs tests of a copy of the checkout until one fails.

    Raises:
        subprocess.TimeoutExpired: after `LIMIT_S`.
    """
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", marks, *arguments]
    return subprocess.run(words, cwd=copy, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def sees(copy: Path, fault: Fault, marks: str) -> tuple[bool, str]:
    """Returns whether the tests fail with the fault in a copy of the checkout, and the first that does."""
    target = copy / fault.file
    sound = target.read_text()
    target.write_text(fault.planted(sound))
    try:
        for tests in nearest_tests(fault.file):  # one after the other: to collect all of them takes longer than most
            done = run_tests(copy, marks, tests)
            if done.returncode not in (0, NO_TESTS):
                first = next((line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
                return True, first.split(" - ")[0]
    except subprocess.TimeoutExpired:
        return True, "never ended"
    finally:
        target.write_text(sound)
    return False, ""


def copy_of_checkout(folder: str) -> Path:
    """Returns a copy of the files that git knows or would know."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    copy = Path(folder) / "checkout"
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    if (beside := ROOT.parent / "shared").is_dir():
        (Path(folder) / "shared").symlink_to(beside)
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of file names; none: all faults")
    parser.add_argument("--slow", action="store_true", help="with the slow tests, too")
    options = parser.parse_args()
    faults = [f for f in read_faults() if not options.names or any(name in f.file for name in options.names)]
    marks = "not gpu" if options.slow else "not slow and not gpu"
    copies: Queue[Path] = Queue()
    seen = []

    def count(fault: Fault) -> None:
        copy, start = copies.get(), time.monotonic()
        try:
            found, test = sees(copy, fault, marks)
        finally:
            copies.put(copy)
        seen.append(found)
        print(f"{'seen' if found else 'NOT SEEN':8s} {time.monotonic() - start:4.0f} s  {fault}  {test}", flush=True)

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(AT_ONCE):
            copies.put(copy := copy_of_checkout(f"{folder}/{number}"))
        sound = run_tests(copy, marks, "--numprocesses", str(AT_ONCE))
        if sound.returncode != 0:
            raise SystemExit(f"the tests fail without a fault:\n{sound.stdout[-4000:]}")
        list(pool.map(count, faults))
    print(f"{sum(seen)} of {len(seen)} planted faults seen, {sum(seen) / max(1, len(seen)):.0%}")


if __name__ == "__main__":
    main()
