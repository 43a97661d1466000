"""The command line of every job: a preset, dotted overrides, and the job's own options."""

import dataclasses
import difflib
import logging
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

import tyro

from jobs.errors import plain_text
from jobs.help import short_help
from raysys.config import RunConfig
from raysys.console import configure_logging
from raysys.credentials import mask, mask_words, refuse_credentials
from raysys.location import Location
from raysys.presets import PRESETS, finetuning
from raysys.record import free_name, read_config

log = logging.getLogger(__name__)
SHORT = {
    "--init": "--finetune.init",
    "--teacher": "--finetune.teacher",
    "--label-fraction": "--finetune.label-fraction",
}
"""Options that stand for a key."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that every job has."""

    from_run: str | None = None
    """Take the values of this run, trial, sweep (its best trial) or checkpoint instead of a preset's."""
    dry_run: bool = False
    """Say what would happen, and do nothing."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """Options of a job that writes a run or sweep under its name."""

    fresh: bool = False
    """Begin anew: what has this name is kept as NAME-1, NAME-2 and so on."""


def parse(
    doc: str,
    options: type[Any] = Options,
    argv: list[str] | None = None,
    preset: str = "base",
    defaults: dict[str, Any] | None = None,
    task: str = "pretrain",
) -> tuple[RunConfig, Any]:
    """Returns the configuration and the job's options: `JOB [PRESET] [--optim.lr 3e-4 ...] [--dry-run]`.

    Ends the program after the text of `--help`, or with a message that names the key and the nearest known one when an
    argument is unknown. A job imports what it runs after this, since Ray and PyTorch take seconds.

    Args:
        doc: docstring of the job, "What it does: python -m jobs.JOB EXAMPLE".
        options: dataclass of the job's own options.
        argv: arguments; None takes those of the process.
        preset: that is taken where none is named.
        defaults: dotted keys in which this job's defaults differ from the preset's.
        task: that is taken where none is named.
    """
    configure_logging()
    argv = [_long(word) for word in (sys.argv[1:] if argv is None else argv)]
    source, config = _start(argv, preset)
    try:
        config = _as_task(config, argv, task).override(defaults or {})
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error
    if {"-h", "--help"} & set(argv):
        print(short_help(doc, source, config, options))
        raise SystemExit
    wrapped = dataclasses.make_dataclass(
        "Arguments",
        [
            ("config", Annotated[RunConfig, tyro.conf.arg(name="")], dataclasses.field(default=config)),
            ("options", Annotated[options, tyro.conf.arg(name="")], dataclasses.field(default_factory=options)),
        ],
    )
    argv = ["--help" if word == "--help-all" else word for word in argv]
    try:
        arguments = tyro.cli(wrapped, args=argv, prog=_usage(doc), description=doc)
        refuse_credentials(arguments.config)
    except ValueError as error:  # a check of the configuration itself
        raise SystemExit(f"error: {error}") from error
    config, options = arguments.config, arguments.options
    if isinstance(options, RunOptions) and options.from_run is not None and not _gives_name(argv):
        config = _with_own_name(config)
        sys.argv += ["--name", config.name]  # what `run` says how to go on with
    return config, options


def _long(word: str) -> str:
    option, equals, value = word.partition("=")
    return f"{SHORT.get(option, option)}{equals}{value}"


def _as_task(config: RunConfig, argv: list[str], task: str) -> RunConfig:
    """The configuration with the defaults of fine-tuning, where the arguments ask for it and it does not come from such a run."""
    task = _value(argv, "--task") or (task if config.task == "pretrain" else config.task)
    if task in ("pretrain", config.task) or task not in get_args(get_type_hints(RunConfig)["task"]):
        return config  # what is none of the tasks is refused with the other arguments
    return finetuning(config, task, _value(argv, "--finetune.init") or config.finetune.init)


def _value(argv: list[str], option: str) -> str | None:
    """What follows an option, after a space or an equals sign; the last one counts."""
    found = None
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else following
    return found


def _gives_name(argv: list[str]) -> bool:
    return any(word == "--name" or word.startswith("--name=") for word in argv)


def _with_own_name(config: RunConfig) -> RunConfig:
    """A configuration that came from a run, under a name that is free, so that it does not go on with that run."""
    run = Location(config.storage) / config.name
    name = free_name(run, first=2).name if run.exists() else config.name
    log.info("the new run is called %s; --name %s goes on with it", name, name)
    return config.override({"name": name})


def _usage(doc: str) -> str:
    """`python -m jobs.JOB [PRESET]`, of the example in a job's docstring."""
    _, _, example = doc.partition(": python -m ")
    return f"python -m {example.split()[0]} [PRESET]" if example else "job [PRESET]"


def _start(argv: list[str], preset: str) -> tuple[str, RunConfig]:
    """Where values come from, and the values; takes a preset's name off the arguments."""
    for i, word in enumerate(argv):
        if word in ("--from-run", "--from_run") and i + 1 < len(argv):
            return argv[i + 1], read_config(argv[i + 1])
        if word.startswith(("--from-run=", "--from_run=")):
            run = word.split("=", 1)[1]
            return run, read_config(run)
    name = argv.pop(0) if argv and not argv[0].startswith("-") else preset
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        raise SystemExit(
            f"error: unknown preset {name!r}"
            + (f": did you mean {near[0]!r}?" if near else "")
            + f" (known: {', '.join(PRESETS)})"
        )
    return name, PRESETS[name]()


def run(main: Callable[[], None], *, goes_on: bool = False) -> None:
    """Calls a job's `main` and ends the program as a shell expects it.

    An error that this project raises on purpose becomes one line; any other keeps its traceback. Ctrl-C ends with code 130.

    Args:
        main: of the job.
        goes_on: the same command goes on where it was interrupted.
    """
    try:
        main()
    except KeyboardInterrupt:
        again = shlex.join(
            [
                "python",
                "-m",
                main.__globals__["__spec__"].name,
                *mask_words([word for word in sys.argv[1:] if word != "--fresh"]),
            ]
        )
        print(
            f"interrupted; nothing finished is lost. Go on with:\n{again}" if goes_on else "interrupted",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
    except Exception as error:
        if (text := plain_text(error)) is None:
            raise
        raise SystemExit(f"error: {mask(text)}") from None
