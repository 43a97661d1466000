"""Compare fine-tuned networks on labelled data: python -m jobs.evaluate results/my-run phasenet:instance --data /path/to/datasets"""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from jobs.command import run
from raysys.config import DataConfig
from raysys.console import configure_logging


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Which networks are evaluated, on what, and where the results go."""

    networks: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]
    """Fine-tuned runs (their best checkpoint), checkpoints, or weights that SeisBench publishes, as phasenet:instance."""
    data: str
    """Folder or URL that holds the data sets."""
    datasets: tuple[str, ...] = ("all",)
    """Names of data sets, or "all" below `data`."""
    out: str = "results/evaluation"
    """Folder or URL of evaluation.json, metrics.csv, examples.npz and the predictions. Predictions that are there are kept."""
    targets: str | None = None
    """Folder with target windows of the pick benchmark, NAME/task1.csv and NAME/task23.csv; without it they are made."""
    device: Literal["cuda", "cpu"] = "cuda"
    resamples: int = 1000
    """Times that events are drawn anew, for 95 % intervals."""


def main() -> None:
    options = tyro.cli(EvaluateOptions, prog="python -m jobs.evaluate", description=__doc__)
    configure_logging()
    from raysys.evaluate.evaluation import evaluate

    data = DataConfig(root=options.data, datasets=options.datasets)
    print(evaluate(options.networks, data, options.out, options.targets, options.device, options.resamples))


if __name__ == "__main__":
    run(main, goes_on=True)
