"""The command line of every job: a preset, dotted overrides, and the job's own options."""

import dataclasses
import difflib
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from raysys.config import RunConfig
from raysys.console import configure_logging
from raysys.presets import PRESETS
from raysys.record import read_config

_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that every job has."""

    from_run: str | None = None
    """Take the configuration of this run, trial, sweep (its best trial) or checkpoint instead of a preset's."""
    dry_run: bool = False
    """Print the resolved configuration, shapes, parameters and memory, and do nothing."""


def parse(
    doc: str | None, options: type[Any] = Options, argv: list[str] | None = None, preset: str = "base"
) -> tuple[RunConfig, Any]:
    """Returns the configuration and the job's options: `JOB [PRESET] [--optim.lr 3e-4 ...] [--dry-run]`.

    Ends the program where there is nothing to run: after the text of `--help` or `--dry-run`, or with a message that
    names the key and the nearest known one when an argument is unknown. A job imports what it runs after this, since
    Ray and PyTorch take seconds.
    """
    configure_logging()
    argv = list(sys.argv[1:] if argv is None else argv)
    base = _start(argv, preset)
    wrapped = dataclasses.make_dataclass(
        "Arguments",
        [
            ("config", Annotated[RunConfig, tyro.conf.arg(name="")], dataclasses.field(default=base)),
            ("options", Annotated[options, tyro.conf.arg(name="")], dataclasses.field(default_factory=options)),
        ],
    )
    try:
        arguments = tyro.cli(
            wrapped,
            args=argv,
            description=f"{doc or ''}\nPresets: {', '.join(PRESETS)} (first argument, default {preset}).",
        )
    except ValueError as error:  # a check of the configuration itself
        raise SystemExit(f"error: {error}") from error
    if arguments.options.dry_run:
        from raysys.train.describe import describe

        print(describe(arguments.config))
        raise SystemExit
    return arguments.config, arguments.options


def _start(argv: list[str], preset: str) -> RunConfig:
    """The configuration that overrides start from; takes a preset's name off the arguments."""
    for i, word in enumerate(argv):
        if word in ("--from-run", "--from_run") and i + 1 < len(argv):
            return read_config(argv[i + 1])
        if word.startswith(("--from-run=", "--from_run=")):
            return read_config(word.split("=", 1)[1])
    name = argv.pop(0) if argv and not argv[0].startswith("-") else preset
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        raise SystemExit(
            f"error: unknown preset {name!r}"
            + (f": did you mean {near[0]!r}?" if near else "")
            + f" (known: {', '.join(PRESETS)})"
        )
    return PRESETS[name]()


def run(main: Callable[[], None]) -> None:
    """Calls a job's `main`; an error that this project raises on purpose becomes one line instead of a traceback."""
    try:
        main()
    except (ValueError, OSError, RuntimeError) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        if Path(frame.filename).is_relative_to(_ROOT / "raysys") and (frame.line or "").startswith("raise "):
            raise SystemExit(f"error: {error}") from None
        raise
