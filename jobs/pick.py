"""Pick P and S in an archive of continuous records: python -m jobs.pick /path/to/archive --picker results/my-picker --out picks"""

import datetime
import json
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jobs.command import run
from raysys.console import configure_logging


@dataclass(frozen=True, kw_only=True)
class PickOptions:
    """What is picked, by which picker, and where the picks go."""

    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE|FOLDER ...")]
    """Files that ObsPy reads, folders with such files, or an SDS archive."""
    out: str
    """Folder or URL of the picks. What is there for the same picker and files is kept."""
    picker: str = "default"
    """A fine-tuned run, a checkpoint, a folder of `jobs.export`, weights as phasenet:instance; "default" comes with the package."""
    to: tuple[Literal["csv", "quakeml", "phasenet", "gamma", "pyocto", "seisbench"], ...] = ("csv",)
    """Files that are written in the end, for people and for associators."""
    stations: str | None = None
    """StationXML (amplitudes become m/s) or CSV with the places of stations, for associators."""
    instruments: tuple[str, ...] = ()
    """First two letters of the channels, preferred ones first; of each place one is read. Without it HH, EH, BH, SH and so on."""
    begin: datetime.date | None = None
    """First day, as 2019-07-04 (UTC)."""
    end: datetime.date | None = None
    """Last day."""
    device: Literal["cuda", "cpu"] = "cpu"


def main() -> None:
    options = tyro.cli(PickOptions, prog="python -m jobs.pick", description=__doc__)
    configure_logging()
    from raysys.picking.run import INSTRUMENTS, Picking, pick_archive

    how = Picking(
        picker=options.picker,
        instruments=options.instruments or INSTRUMENTS,
        begin=options.begin,
        end=options.end,
        stations=options.stations,
        formats=options.to,
        device=options.device,
    )
    told = pick_archive(options.paths, options.out, how)
    print(json.dumps(told))
    if told["failed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    run(main, goes_on=True)
