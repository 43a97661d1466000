"""What a run would do: its data, steps, windows and hours."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from raysys.config import RunConfig
from raysys.console import duration
from raysys.data.corpus import select, train_plan
from raysys.data.labels import TraceLabels
from raysys.data.overview import find, index_only, quiet
from raysys.data.windows import Traces
from raysys.presets import PRESETS
from raysys.train.describe import describe
from raysys.train.left_out import learnt_from
from raysys.train.loop import Budget

MEASURED = {"base": (3305.0, "one H100"), "smoke": (43.7, "a CPU core")}
"""Preset -> windows a second of one worker that were measured (docs), and on what."""
_RECENT = 20
"""Log lines of an earlier run of which the rate is taken."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Windows a second, and where the number comes from."""

    windows_per_s: float
    source: str


def run_forecast(config: RunConfig) -> str:
    """Returns what a run would do, in lines; reads the index of the data, no waveform, and starts no Ray."""
    lines, epoch = data_lines(config)
    train = config.train
    batch = f"{train.batch_size * config.optim.accumulate} windows on each of {train.num_workers} workers"
    lines += [f"run {config.name}, written to {config.storage}/{config.name}:"]
    if train.max_steps is None and epoch is None:
        lines.append(f"  {train.epochs:g} epochs; steps and hours are unknown without the data")
    else:
        budget = Budget.of(config, epoch or 1)
        epochs = f", {budget.windows / epoch:.3g} epochs" if epoch else ""
        steps = -(-budget.windows // budget.full_batch)
        lines.append(f"  {steps:,} steps of {batch}: {budget.windows:,} windows{epochs}")
        lines.append(
            f"  {hours_text(budget.windows, rate_of(config, train.num_workers, ''))}, without start and validations"
        )
    return "\n".join([*lines, "", describe(config)])


def data_lines(config: RunConfig) -> tuple[list[str], int | None]:
    """Returns what is said of the data, and the windows of an epoch; None where a data set is missing."""
    found, wrong = find(config.data)
    lines = [f"data.root {config.data.root}:"]
    if wrong:
        return [*lines, *(f"  {text}" for text in wrong)], None
    corpus = index_only(config.data, found)
    for name in found:
        of_set = corpus.filter(corpus["dataset"].to_numpy(zero_copy_only=False) == name)
        lines.append(f"  {name}: {len(of_set):,} traces, {len(select(of_set, 'train')):,} to train on")
    training = select(corpus, "train")
    if config.task != "pretrain":
        training = _labelled(training, config)
        lines.append(f"  labelled traces to learn from: {len(training):,} ({config.finetune.label_fraction:.0%})")
    with quiet():
        plan = train_plan(config.data, Traces.from_table(training), config.train.seed)
    return [*lines, f"  an epoch: {plan.epoch_windows:,} windows"], plan.epoch_windows


def _labelled(table: pa.Table, config: RunConfig) -> pa.Table:
    """The rows that fine-tuning learns from."""
    known = TraceLabels.from_table(table, config).known(config.task)
    table = table.filter(pa.array(known))
    dataset = table["dataset"].to_numpy(zero_copy_only=False)
    units = TraceLabels.from_table(table, config).unit
    return table.filter(pa.array(learnt_from(dataset, units, config.finetune)))


def rate_of(config: RunConfig, workers: int, pattern: str) -> Rate | None:
    """Returns the rate of the newest run below `storage/name`, else the one measured for the same model, else None.

    Args:
        config: of the run.
        workers: of the run, or of one trial.
        pattern: of the folders below `storage/name` that may hold metrics.jsonl; "" for that folder itself.
    """
    if "://" not in config.storage:
        folder = Path(config.storage).expanduser() / config.name
        files = sorted(folder.glob(f"{pattern}metrics.jsonl"), key=lambda file: file.stat().st_mtime)
        for file in reversed(files):
            if rates := _rates(file):
                return Rate(statistics.median(rates[-_RECENT:]), f"the last lines of {file}")
    for name, (rate, device) in MEASURED.items():
        if config.task == "pretrain" and PRESETS[name]().model == config.model:
            return Rate(rate * workers, f"{rate:,.0f} windows/s a worker measured for `{name}` on {device}")
    return None


def hours_text(windows: float, rate: Rate | None) -> str:
    """Returns the time that windows take, in words."""
    if rate is None:
        return "hours: unknown, there is no rate of an earlier run of this name, and none was measured for this model"
    return f"about {duration(windows / rate.windows_per_s)} at {rate.windows_per_s:,.0f} windows/s ({rate.source})"


def _rates(file: Path) -> list[float]:
    rates = []
    for line in file.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # half a line of a run that was killed
            continue
        rates += [row["perf/windows_per_s"]] if row.get("perf/windows_per_s") else []
    return rates
