"""What data sets hold, as text: traces, splits, rates, lengths, picks, what is left out and why, flaws and leaks."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.config import DataConfig
from raysys.data.catalog import EIGHT, folders, resolve
from raysys.data.corpus import load_corpus, summary
from raysys.data.leakage import leak_report


def overview(config: DataConfig) -> str:
    """Returns a few lines for each data set of a run, and one for each leak between them; starts no Ray.

    Raises:
        ValueError, FileNotFoundError: what `load_corpus` says of a bad name, folder or file.
    """
    with quiet():
        corpus = load_corpus(config)
    lines = []
    for row in summary(corpus):
        part = corpus.filter(pc.equal(corpus["dataset"], row["dataset"]))
        lines += [f"{row['dataset']}: {row['traces']:,} traces", *(f"  {line}" for line in _lines(row, part)), ""]
    leaks = [
        f"  {leak['train']} trains on {leak['events']} events ({leak['traces']} traces) of the dev or test split of {leak['evaluation']}"
        for leak in leak_report(corpus)
    ]
    remedy = "  --data.exclude-leaks leaves these training traces out" if leaks and not config.exclude_leaks else ""
    lines += ["events in both training and evaluation splits:", *(leaks or ["  none"]), remedy]
    return "\n".join(lines).rstrip()


def find(config: DataConfig) -> tuple[dict[str, str], list[str]]:
    """Returns data set name -> folder of those that are there, and what is wrong with the others; opens no file."""
    below = folders(config.root)
    found, wrong, absent = {}, [], []
    names = [one for name in config.datasets for one in (EIGHT if name == "all8" else [name])]
    for name in dict.fromkeys(names):
        try:
            found |= resolve((name,), config.root)
        except FileNotFoundError as error:
            (absent if name in EIGHT else wrong).append(name if name in EIGHT else str(error))
        except ValueError as error:
            wrong.append(str(error))
    if absent:
        size = sum(EIGHT[name].gigabytes for name in absent)
        wrong.append(f"not there: {', '.join(absent)} (about {size:g} GB; jobs.prepare --download fetches them)")
        wrong.append(f"there: {', '.join(below)}; --data.datasets all takes these" if below else "there: no data set")
    return found, wrong


def index_only(config: DataConfig, folders: dict[str, str]) -> pa.Table:
    """Returns the corpus of some folders without looking at any waveform."""
    unread = dataclasses.replace(config, datasets=tuple(folders), scan=False)
    with quiet():
        return load_corpus(unread)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what the index says while it is loaded out of the console, where the text that is returned says it."""
    log = logging.getLogger("raysys.data")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)


def _lines(row: dict, part: pa.Table) -> Iterator[str]:
    yield f"splits: train {row['train']:,}, dev {row['dev']:,}, test {row['test']:,}"
    rates = pc.value_counts(part["rate_hz"]).to_pylist()
    rates = sorted((one["values"], one["counts"]) for one in rates)
    yield "sampling rates: " + ", ".join(f"{rate:g} Hz ({count:,})" for rate, count in rates)
    if len(part):
        seconds = part["num_samples"].to_numpy() / part["rate_hz"].to_numpy()
        low, high = seconds.min(), seconds.max()
        spread = f" to {high:.1f} s, half of them below {np.median(seconds):.1f}" if high > low else ""
        yield f"lengths: {low:.1f}{spread} s"
    for wave in "ps":
        yield f"{wave.upper()} picks: {_picks(part, wave)}"
    yield f"left out: {_counts(row.get('left_out', {}))}"
    if row.get("ignored"):
        yield f"not used: {_counts(row['ignored'])}"
    flaws = _counts(row.get("kept", {})) if row.get("scanned") else "unknown, nobody has looked (--data.scan does)"
    yield f"flaws of the others: {flaws}"


def _picks(part: pa.Table, wave: str) -> str:
    """How many traces have a pick, and from which columns of the metadata."""
    picked = part.filter(pc.invert(pc.is_nan(part[f"{wave}_s"])))
    columns = Counter(f"trace_{phase}_arrival_sample" for phase in picked[f"{wave}_phase"].to_pylist())
    if not columns:
        return "none"
    return f"{len(picked):,}, from " + ", ".join(f"{name} ({count:,})" for name, count in columns.most_common())


def _counts(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in reasons.items()) or "none"
