"""Do the kernels learn as plain PyTorch does? Loss curves of the same runs with either, on real windows.

    python -m benchmarks.curves --data.root SHARDS [--steps 200] [--seeds 0 1] [--out FOLDER]      # base preset, on a GPU

Runs that share a seed share weights, windows, masks and noise, so at first only rounding parts them; after some steps they are as
far apart as seeds are. The kernels pass if on average over seeds and steps they are neither above nor below PyTorch by more than
the distance of seeds over the square root of their number. --out gets the curves as a picture and a table. The last line is
one JSON object.
"""

import argparse
import itertools
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from raysys.config import RunConfig
from raysys.console import configure_logging
from raysys.presets import PRESETS
from raysys.train.data import prepare_training_data
from raysys.train.loop import Trainer
from raysys.train.reporter import SilentReporter

KERNELS = ("triton", "torch")
LOGGED = "train/contrastive"


def curve(config: RunConfig, folder: Path) -> list[float]:
    """Returns the contrastive loss of a run in this process, a mean for every log line."""
    folder.mkdir(parents=True)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data, place = prepare_training_data(config), {"rank": 0, "world": 1, "device": device}
    Trainer(config, data, **place, reporter=SilentReporter(folder / "run"), record={}, log_folder=folder).run()
    rows = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [row[LOGGED] for row in rows if LOGGED in row]


def compare(table: pd.DataFrame) -> dict[str, float]:
    """Returns, in nats, how far apart seeds are, how far the kernels lie above PyTorch, and where the curves end.

    Args:
        table: a column for each (kernel, seed), a row for each log line.
    """
    pairs = [(table[k][a], table[k][b]) for k in KERNELS for a, b in itertools.combinations(table[k].columns, 2)]
    ours, plain = (table[kernel].mean(axis=1) for kernel in KERNELS)
    ends = {f"end_{kernel}_seed_{seed}": float(table[kernel][seed].iloc[-4:].mean()) for kernel, seed in table}
    numbers = {
        "seed_distance": float(np.mean([(a - b).abs().mean() for a, b in pairs])),
        "kernels_above_torch": float((ours - plain).mean()),
        "first_line_difference": float((ours - plain).abs().iloc[0]),
    }
    return {name: round(value, 4) for name, value in (numbers | ends).items()}


def draw(table: pd.DataFrame, file: Path) -> None:
    """Draws all curves over their steps; those of PyTorch dashed."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for kernel, seed in table:
        style = {"linestyle": "--" if kernel == "torch" else "-", "linewidth": 1, "color": f"C{seed}"}
        axes.plot(table.index, table[kernel][seed], label=f"{kernel}, seed {seed}", **style)
    axes.set(xlabel="step", ylabel="contrastive loss (nats)")
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base", choices=sorted(PRESETS))
    parser.add_argument("--data.root", dest="data", required=True, help="folder with data sets or shards")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--every", type=int, default=5, help="steps of which the curves show the mean")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--out", type=Path, help="folder for curves.png and curves.csv")
    options = parser.parse_args()
    configure_logging()
    values = {
        "data.root": options.data,
        "data.datasets": ["all"],
        "data.reader": "process",
        "train.compile": False,
        "train.batch_size": options.batch,
        "train.max_steps": options.steps,
        "train.validate_every": options.steps,
        "train.val_windows": 64,
        "train.log_every": options.every,
    }
    config = PRESETS[options.preset]().override(values)
    runs = list(itertools.product(KERNELS, options.seeds))
    with tempfile.TemporaryDirectory() as work, ProcessPoolExecutor(len(runs), get_context("spawn")) as pool:
        found = {
            run: pool.submit(
                curve,
                config.override(
                    {"model.backbone.kernel": run[0], "train.seed": run[1], "data.cache": f"{work}/{run[0]}{run[1]}"}
                ),
                Path(work) / f"{run[0]}-{run[1]}",
            )
            for run in runs
        }
        table = pd.DataFrame({run: future.result() for run, future in found.items()})
    table.index = pd.RangeIndex(1, len(table) + 1) * options.every
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        draw(table, options.out / "curves.png")
        table.to_csv(options.out / "curves.csv", index_label="step")
    result = compare(table)
    print(json.dumps({"steps": options.steps, "batch": options.batch, **result}))
    allowed = result["seed_distance"] / len(options.seeds) ** 0.5
    assert abs(result["kernels_above_torch"]) < allowed, "the kernels part from PyTorch more than seeds do"


if __name__ == "__main__":
    main()
