"""Write a fine-tuned picker for SeisBench and others: python -m jobs.export results/my-picker --out picker"""

from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs.command import run
from raysys.console import configure_logging


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Which picker, and where it goes."""

    picker: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A fine-tuned run (its best checkpoint) or one of its checkpoints."""
    out: str
    """Folder that is written: picker.json and picker.pt for SeisBench, model.safetensors, config.json, README.md."""
    evaluation: str | None = None
    """Folder of `jobs.evaluate` with this picker: its thresholds, its temperature, and the scores of the model card."""
    install: str | None = None
    """Name under which Picker.from_pretrained finds it on this machine."""
    half: bool = False
    """float16 in model.safetensors."""


def main() -> None:
    options = tyro.cli(ExportOptions, prog="python -m jobs.export", description=__doc__)
    configure_logging()
    from raysys.picking.export import export

    export(options.picker, options.out, options.evaluation, options.install, options.half)


if __name__ == "__main__":
    run(main)
