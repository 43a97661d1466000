"""Write one HTML page about runs, sweeps, evaluations and picks: python -m jobs.report results/my-run results/my-sweep --out report.html"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs.command import run
from raysys.console import configure_logging


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What a report is written about, and where to."""

    directories: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER|URL ...")]
    """Folders or URLs of runs, sweeps, evaluations and picks."""
    out: str | None = None
    """The page. Without it: report.html in the folder, report-FOLDER-FOLDER.html beside several, or for URLs
    report-NAME.html here."""


def main() -> None:
    options = tyro.cli(ReportOptions, prog="python -m jobs.report", description=__doc__)
    configure_logging()
    from raysys.report.write import write_report

    print(write_report(options.directories, options.out))


if __name__ == "__main__":
    run(main)
