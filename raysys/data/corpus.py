"""All data sets of a run as one table: what is in it, what was left out of it and why, and its splits."""

import dataclasses
import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.config import DataConfig
from raysys.data.catalog import resolve
from raysys.data.index import dropped_rows, ignored_values, load_index
from raysys.data.leakage import leak_lines, leaks
from raysys.data.plan import Plan, mixture
from raysys.data.quality import LEGEND, mask, quality_report, quality_row, quality_table, reasons
from raysys.data.windows import Traces

log = logging.getLogger(__name__)

LEAKED = "event of an evaluation split"
"""Reason for which `data.exclude_leaks` leaves out a training trace."""


def load_corpus(config: DataConfig) -> pa.Table:
    """Returns the index of every data set of the run, one after the other, each in file order.

    Traces with a flaw of `data.drop` are not in it, and with `data.exclude_leaks` no training trace whose event is
    evaluated anywhere. What was left out travels with the table (`quality_report`, `leak_report`) and is logged.

    Raises:
        ValueError, FileNotFoundError: what `resolve` and `load_index` say of a bad name, folder or file.
    """
    drop = mask(config.drop)
    sources = resolve(config.datasets, config.root)

    def load(item: tuple[str, str]) -> pa.Table:
        return load_index(item[1], item[0], config.cache, config.split_seed, scan=config.scan)

    with ThreadPoolExecutor(max_workers=8) as pool:
        indices = dict(zip(sources, pool.map(load, sources.items()), strict=True))
    tables, left_out = [], {}
    for name, index in indices.items():
        flawed = index["flags"].to_numpy() & drop
        left_out[name] = dropped_rows(index) | reasons(flawed)
        tables.append(index.filter(pa.array(flawed == 0)).replace_schema_metadata(None))
    corpus = pa.concat_tables(tables).combine_chunks()
    leaking, table = leaks(corpus)
    if table:
        log.info("events that both training and evaluation splits hold:\n%s", leak_lines(table))
    if config.exclude_leaks:
        for name in indices:
            count = int((leaking & pc.equal(corpus["dataset"], name).to_numpy()).sum())
            left_out[name] |= {LEAKED: count} if count else {}
        corpus = corpus.filter(pa.array(~leaking)).combine_chunks()
    rows = [_quality(name, corpus, index, left_out[name]) for name, index in indices.items()]
    log.info("%s\n%s", LEGEND, quality_table(rows))
    found = [dataclasses.asdict(leak) for leak in table]
    return corpus.replace_schema_metadata({"quality": json.dumps(rows), "leaks": json.dumps(found)})


def _quality(name: str, corpus: pa.Table, index: pa.Table, left_out: dict[str, int]) -> dict:
    kept = corpus.filter(pc.equal(corpus["dataset"], name))["flags"].to_numpy()
    row = quality_row(name, len(kept), left_out, reasons(kept), b"scanned" in (index.schema.metadata or {}))
    return row | {"ignored": ignored_values(index)}


def select(corpus: pa.Table, split: str) -> pa.Table:
    """Returns the rows of one split, "train", "dev" or "test", in the same order."""
    return corpus.filter(pc.equal(corpus["split"], split))


def train_plan(config: DataConfig, traces: Traces, seed: int, at_onsets: float = 0.0) -> Plan:
    """Returns the order in which the training split is delivered, a fraction of its windows placed at onsets.

    Raises:
        ValueError: the split is empty.
    """
    if not len(traces):
        raise ValueError(f"data.datasets={config.datasets}: no trace in the training split")
    sizes = {name: int((traces.dataset == code).sum()) for code, name in enumerate(traces.datasets)}
    quotas = mixture(sizes, config.alpha, config.weights)
    for name, size in sizes.items():
        log.info("%s: %d training traces, %d visits an epoch", name, size, quotas[name])
    return Plan(
        sizes=tuple(sizes.values()),
        quotas=tuple(quotas[name] for name in sizes),
        seed=seed,
        crops=config.crops_per_visit,
        run_rows=config.run_rows,
        shuffle_rows=config.shuffle_rows,
        at_onsets=at_onsets,
    )


def fingerprint(corpus: pa.Table) -> str:
    """Returns a digest of what the corpus holds: identities, splits, picks, rates and lengths of its traces."""
    digest = hashlib.sha256()
    for name in ("dataset", "chunk", "trace_name", "split", "rate_hz", "num_samples", "p_s", "s_s"):
        column = corpus[name].combine_chunks()
        for buffer in column.buffers():
            if buffer is not None:
                digest.update(buffer)
    for name in ("p_more_s", "s_more_s", "other_s"):
        column = corpus[name].combine_chunks()
        if len(column.flatten()):  # sets without any have the digest they always had
            digest.update(np.concatenate([column.value_lengths(), column.flatten()]))
    return digest.hexdigest()[:16]


def summary(corpus: pa.Table) -> list[dict]:
    """Returns one row a data set: traces by split, labels, sampling rates, and its quality (`quality_row`)."""
    quality = {row["dataset"]: row for row in quality_report(corpus)}
    rows = []
    for name in pc.unique(corpus["dataset"]).to_pylist():
        part = corpus.filter(pc.equal(corpus["dataset"], name))
        splits = {s: pc.sum(pc.equal(part["split"], s)).as_py() or 0 for s in ("train", "dev", "test")}
        labels = {f"{w}_labels": pc.sum(pc.invert(pc.is_nan(part[f"{w}_s"]))).as_py() for w in "ps"}
        rates = sorted(pc.unique(part["rate_hz"]).to_pylist())
        rows.append(
            {"dataset": name, "traces": len(part), **splits, **labels, "rates_hz": rates, **quality.get(name, {})}
        )
    return rows
