"""How training scales with workers, and what Ray costs: windows/s, waiting for data, start, recovery.

    python -m benchmarks.scale --preset base --data.root SHARDS --workers 1 2 --steps 400      # on GPUs
    python -m benchmarks.scale --preset smoke --workers 1 2 --steps 60                    # on a CPU

Without --data.root it makes miniatures of the eight data sets and shards of them. Ways to run the same Trainer:

apart   as many runs of one worker side by side, each on its own device; only with several workers
bare    torch.distributed alone, windows read by a thread of each process
train   Ray Train, windows read the same way
stream  Ray Train, windows read and distributed by Ray Data

Checks that all ways but the first have the same loss: over the first steps, before roundings have grown, and more loosely over all
of them. Rates leave out the first quarter of the steps; that of `apart` is the slowest run's times their number, since workers that
wait for each other go at the pace of the slowest device. The last line is one JSON object.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import raysys  # noqa: F401  (sets what Ray reads when it is imported)
from raysys.cluster import connect
from raysys.config import RunConfig
from raysys.console import configure_logging
from raysys.data.shards import prepare
from raysys.miniature import write_miniatures
from raysys.presets import PRESETS
from raysys.train import driver
from raysys.train.data import TrainingData, prepare_training_data
from raysys.train.loop import Trainer
from raysys.train.metrics import Line
from raysys.train.reporter import SilentReporter


@contextmanager
def recorded(after: Callable[[Trainer], None] = lambda trainer: None) -> Iterator[dict[str, Any]]:
    """Records the trainer of this process; `after` is called after each step.

    Returns:
        "first": Unix time after the first step. "lines": for every log line, when the device has done its steps, their number so far,
        Unix time, seconds waited for data so far, and the mean loss since the line before.
    """
    found: dict[str, Any] = {"lines": []}
    train_step, write_line = Trainer._train_step, Trainer._write_line

    def recorded_step(self, batches) -> None:
        train_step(self, batches)
        found.setdefault("first", time.time())
        after(self)

    def recorded_line(self, line: Line) -> dict[str, Any]:
        metrics = write_line(self, line)
        found["lines"].append((line.step, time.time(), line.wait_s, metrics["train/loss"]))
        return metrics

    Trainer._train_step, Trainer._write_line = recorded_step, recorded_line
    yield found
    Trainer._train_step, Trainer._write_line = train_step, write_line


def bare_worker(number: int, port: int, config: RunConfig, data: TrainingData, out: Path) -> None:
    """One process of a run without Ray, or of several that know nothing of each other."""
    world = config.train.num_workers
    rank = number if world > 1 else 0
    cuda = torch.cuda.is_available() and config.train.device != "cpu"
    device = torch.device("cuda", number) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    if world > 1:
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group("nccl" if cuda else "gloo", init_method=address, rank=rank, world_size=world)
    reporter = SilentReporter(out / f"worker{number}")
    place = {"rank": rank, "world": world, "device": device}
    with recorded() as found:
        Trainer(config, data, **place, reporter=reporter, record={}, log_folder=None).run()
    (out / f"{number}.json").write_text(json.dumps(found))
    if world > 1:
        dist.destroy_process_group()


def bare(config: RunConfig, data: TrainingData, folder: Path) -> dict[str, Any]:
    """Returns what was recorded of rank 0 of a run without Ray."""
    return spawned(config, data, folder, config.train.num_workers)[0]


def apart(config: RunConfig, data: TrainingData, folder: Path) -> dict[str, Any]:
    """Returns what was recorded of the slowest of as many runs of one worker, side by side."""
    found = spawned(config.override({"train.num_workers": 1}), data, folder, config.train.num_workers)
    return min(found, key=lambda run: rate(run["lines"], 1)["windows_per_s"])


def spawned(config: RunConfig, data: TrainingData, folder: Path, processes: int) -> list[dict[str, Any]]:
    """Returns what was recorded of every process of a run, or of several runs, without Ray."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(bare_worker, args=(port, config, data, folder), nprocs=processes)
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(processes)]


def timed_worker(args: dict[str, Any]) -> dict[str, Any]:
    """A Ray Train worker that also returns what was recorded and, if asked to, kills the last rank in mid-run once."""
    config, mark = args["config"], Path(args["kill"]) if args["kill"] else None

    def kill(trainer: Trainer) -> None:
        last = trainer.worker.rank == trainer.worker.world - 1
        # By then the checkpoint of half the steps is registered, which happens at a log line.
        if mark and last and trainer.step > 0.8 * config.train.max_steps and not mark.exists():
            mark.write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)

    with recorded(kill) as found:
        return driver.train_worker(args) | found


def trained(config: RunConfig, data: TrainingData, folder: Path, kill: str = "") -> dict[str, Any]:
    """Returns what was recorded of rank 0 of a run by Ray Train, and when it began."""
    config = config.override({"name": folder.name, "storage": str(folder.parent)})
    arguments = {"config": config, "data": data.shared(), "record": {}, "log_folder": driver.run_location(config).url}
    folder.mkdir()
    begin = time.time()
    found = driver.trainer(timed_worker, config, arguments | {"kill": kill}).fit().return_value
    return {"begin": begin} | {key: found[key] for key in ("first", "lines")}


WAYS = {
    "apart": (apart, "process"),
    "bare": (bare, "process"),
    "train": (trained, "process"),
    "stream": (trained, "ray"),
}
"""How a run is made, and the reader of its windows."""


def rate(lines: list[tuple[int, float, float, float]], step_windows: int) -> dict[str, float]:
    """Windows a second of all workers, and the fraction of the time that rank 0 waits for data, after a quarter of the steps."""
    end, end_s, waited_to, _ = lines[-1]
    begin, begin_s, waited, _ = next(line for line in lines if line[0] >= end / 4)
    return {
        "windows_per_s": round((end - begin) * step_windows / (end_s - begin_s), 1),
        "data_wait_fraction": round((waited_to - waited) / (end_s - begin_s), 4),
    }


def recovery_s(config: RunConfig, data: TrainingData, folder: Path) -> float:
    """Seconds from the kill of a worker to the first new step."""
    config = config.override({"train.validate_every": config.train.max_steps // 2})
    mark = folder.parent / "killed"
    first = trained(config, data, folder, kill=str(mark))["first"]
    return round(first - float(mark.read_text()), 1)


def measure(
    config: RunConfig, data: TrainingData, folder: Path, rounds: int, ways: Sequence[str] = tuple(WAYS)
) -> dict[str, Any]:
    """The ways with one number of workers, in turn; medians over the rounds."""
    world = config.train.num_workers
    step_windows = world * config.train.batch_size * config.optim.accumulate
    rows: dict[str, list[dict]] = {name: [] for name in ways}
    for number in range(rounds):
        losses = []
        for name in ways:
            run_it, reader = WAYS[name]
            run = run_it(config.override({"data.reader": reader}), data, folder / f"{name}{world}-{number}")
            row = rate(run["lines"], step_windows)
            if "begin" in run:
                row["first_step_s"] = round(run["first"] - run["begin"], 1)
            rows[name].append(row)
            if name != "apart":
                losses.append([line[-1] for line in run["lines"]])
            print(f"{world} workers, {name:6s} {row}", flush=True)
        for name, seen, bound in (
            ("first", [line[0] for line in losses], 1e-3),
            ("mean", [statistics.fmean(line) for line in losses], 1e-2),
        ):
            assert max(seen) - min(seen) <= bound * abs(seen[0]), f"several ways, several losses ({name}): {seen}"
    return {name: {key: statistics.median(row[key] for row in many) for key in many[0]} for name, many in rows.items()}


def summary(results: dict[int, dict]) -> dict[str, Any]:
    """Efficiency of each way against the smallest number of workers, and the share of the rate that Ray costs."""

    def over(way: str, other: str) -> dict[int, float]:
        return {
            n: round(1 - r[way]["windows_per_s"] / r[other]["windows_per_s"], 3)
            for n, r in results.items()
            if way in r and other in r
        }

    first = min(results)
    efficiency = {
        way: {
            n: round(r[way]["windows_per_s"] / n * first / results[first][way]["windows_per_s"], 3)
            for n, r in results.items()
        }
        for way in results[first]
    }
    alone = {n: r["apart"]["windows_per_s"] for n, r in results.items() if "apart" in r}
    return {
        "efficiency": efficiency,
        "of_the_cards_alone": {
            n: {way: round(row["windows_per_s"] / alone[n], 3) for way, row in results[n].items() if way != "apart"}
            for n in alone
        },
        "ray_train_overhead": over("train", "bare"),
        "ray_overhead_with_stream": over("stream", "bare"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base", choices=PRESETS)
    parser.add_argument("--data.root", dest="data", help="folder with shards; made from miniatures where it is missing")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--ways", nargs="+", default=tuple(WAYS), choices=tuple(WAYS))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=JSON", help="overrides, e.g. train.compile=true")
    options = parser.parse_args()
    configure_logging()
    folder = Path(tempfile.mkdtemp(prefix="raysys-scale-"))
    connect()
    start = PRESETS[options.preset]().override({"data.datasets": ["all"], "data.cache": str(folder / "cache")})
    root = options.data
    if root is None:
        write_miniatures(folder / "sets", traces=200)
        root = str(folder / "shards")
        prepare(start.override({"data.root": str(folder / "sets")}), root)
    values = {key: json.loads(value) for key, value in (item.split("=", 1) for item in options.set)}
    fixed = {
        "train.log_every": min(20, max(1, options.steps // 8)),
        "train.max_steps": options.steps,
        "train.validate_every": options.steps,
    }
    start = start.override({"data.root": root, "train.val_windows": 32, **fixed, **values})
    results = {}
    for world in options.workers:
        config = start.override({"train.num_workers": world})
        data = prepare_training_data(config)
        ways = [way for way in options.ways if world > 1 or way != "apart"]
        results[world] = measure(config, data, folder, options.rounds, ways)
    recovered = recovery_s(config, data, folder / "killed-run")
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or [
        f"{os.cpu_count()} CPU cores"
    ]
    out = {"preset": options.preset, "steps": options.steps, "devices": devices, "workers": results}
    print(json.dumps(out | summary(results) | {"recovery_s": recovered}))
    ray.shutdown()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
