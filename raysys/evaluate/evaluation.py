"""Networks side by side on the same data: predictions in Ray tasks, scores with intervals, and the files of the result."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from raysys.cluster import connect, require
from raysys.config import DataConfig, RunConfig
from raysys.evaluate.examples import Example, choose_examples, example_curves, example_windows, npz_bytes
from raysys.evaluate.material import Material, classes_of, load_material
from raysys.evaluate.predictions import predict
from raysys.evaluate.readings import read_whole
from raysys.evaluate.results import evaluation_json, headline, long_table, matrix_text
from raysys.evaluate.stored import Computed, finish, fingerprint, is_stored, load, store
from raysys.evaluate.summary import Predictions, Summary, summarize
from raysys.evaluate.tasks import SPLITS
from raysys.location import Location

log = logging.getLogger(__name__)
_EXAMPLES = "examples"
_PEERS_WIDTH_S = 0.2
"""Width of the soft labels that weights from elsewhere are calibrated against."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A network that is evaluated.

    Attributes:
        name: unique in the evaluation.
        loaded: `raysys.networks.Loaded`.
        groups: of each data set the class of every row of its table.
    """

    name: str
    loaded: Any
    groups: list[np.ndarray]

    @property
    def config(self) -> RunConfig | None:
        return self.loaded.config

    @property
    def task(self) -> str:
        """What it was trained for; weights from elsewhere pick."""
        return self.config.task if self.config else "pick"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.config.head.classes if self.task == "classify" else ()

    @property
    def label_width_s(self) -> float:
        return self.config.head.label_width_s if self.config else _PEERS_WIDTH_S


def evaluate(
    sources: tuple[str, ...],
    data: DataConfig,
    out: str,
    targets: str | None = None,
    device: str = "cuda",
    resamples: int = 1000,
) -> str:
    """Returns the headline metrics of each network as a line of JSON, after everything is written to `out`.

    Args:
        sources: what `raysys.networks.load_network` takes: runs, checkpoints, weights of SeisBench.
        data: the data sets; their splits are those that the networks were trained with.
        out: folder or URL.
        targets: folder with published target windows; None makes them.
        device: "cuda" or "cpu".
        resamples: of the bootstrap.

    Raises:
        ValueError, FileNotFoundError: bad networks, data or targets; runs that split the data in different ways.
    """
    from raysys.networks import load_network

    return evaluate_networks([load_network(source) for source in sources], data, out, targets, device, resamples)


def evaluate_networks(
    loaded: list, data: DataConfig, out: str, targets: str | None = None, device: str = "cuda", resamples: int = 1000
) -> str:
    """Returns the same for networks that are loaded (`raysys.networks.Loaded`)."""
    materials = load_material(_with_split_seed(data, loaded), targets)
    entries = _entries(loaded, materials)
    connect()
    try:
        require({"GPU": 1} if device == "cuda" else {"CPU": 1}, "an evaluation")
    except ValueError as error:
        raise ValueError(f"--device {device}: {error}; for an evaluation without GPUs give --device cpu") from None
    place, examples = Location(out).make_folder(), choose_examples(materials)
    shared = [ray.put(material) for material in materials]
    with ThreadPoolExecutor(len(entries)) as pool:
        work = [pool.submit(_one, entry, place, materials, shared, examples, device, resamples) for entry in entries]
        summaries = {entry.name: done.result() for entry, done in zip(entries, work, strict=True)}
    result = evaluation_json(entries, summaries, materials, data, targets, resamples)
    (place / "metrics.csv").write(long_table(result).to_csv(index=False))
    (place / "examples.npz").write(npz_bytes(_examples(entries, place, materials, examples)))
    (place / "evaluation.json").write_json(result)
    log.info("share of P within 0.5 s of their onset, in test:\n%s", matrix_text(result, "test_P_hit_0.5s"))
    log.info("written to %s", place)
    return json.dumps(headline(result))


def _with_split_seed(data: DataConfig, loaded: list) -> DataConfig:
    """The data with the split seed that the runs had: with another one, test would hold traces they have learnt from."""
    seeds = {one.config.data.split_seed: one.source for one in loaded if one.config}
    if len(seeds) > 1:
        told = ", ".join(f"{source} has {seed}" for seed, source in seeds.items())
        raise ValueError(f"the runs split the data in different ways (data.split_seed: {told}): evaluate them apart")
    return DataConfig(root=data.root, datasets=data.datasets, cache=data.cache, split_seed=next(iter(seeds), 0))


def _entries(loaded: list, materials: list[Material]) -> list[Entry]:
    entries: list[Entry] = []
    none = [np.full(len(one.table), -1) for one in materials]
    for one in loaded:
        taken = {entry.name for entry in entries}
        name = next(n for n in (one.name, *(f"{one.name}-{k}" for k in range(2, 1000))) if n not in taken)
        if name != one.name:
            log.warning("%s is called %s here: another network has the name %s", one.source, name, one.name)
        classifies = one.config is not None and one.config.task == "classify"
        entries.append(Entry(name, one, classes_of(materials, one.config) if classifies else none))
    return entries


def _one(entry: Entry, place: Location, materials, shared, examples, device: str, resamples: int) -> Summary:
    """Predicts what is not there yet, and scores all of it."""
    folder = place / entry.name
    marks = _marks(entry, materials, examples, device)
    missing = [k for k, one in enumerate(materials) if not is_stored(folder / one.name, marks[one.name])]
    with_examples = entry.task != "classify" and not is_stored(folder / _EXAMPLES, marks[_EXAMPLES])
    if found := len(materials) - len(missing):
        log.info("%s: predictions for %d of %d data sets are there already", entry.name, found, len(materials))
    if missing or with_examples:
        wanted = {"num_gpus": 1, "num_cpus": 1} if device == "cuda" else {"num_cpus": 1}
        run = ray.remote(_predictions).options(num_returns="streaming", **wanted)
        for ref in run.remote(entry, shared, missing, examples if with_examples else [], device):
            name, computed = ray.get(ref)
            if name == _EXAMPLES:
                (folder / name / "curves.npz").write(npz_bytes({"curves": computed}))
                finish(folder / name, marks[name])
            else:
                store(folder / name, computed, marks[name])
            log.info("%s: %s is done", entry.name, name)
    of = {one.name: Predictions.of(*load(folder / one.name, one), one.event) for one in materials}
    log.info("%s: scoring, with %d resamples", entry.name, resamples)
    return ray.get(ray.remote(summarize).options(num_cpus=1).remote(entry.task, entry.classes, of, resamples))


def _marks(entry: Entry, materials: list[Material], examples: list[Example], device: str) -> dict[str, str]:
    about = (entry.task, entry.classes, entry.label_width_s, device)
    marks = {
        one.name: fingerprint(entry.loaded.network, *about, one.fingerprint, group.tobytes())
        for one, group in zip(materials, entry.groups, strict=True)
    }
    return marks | {_EXAMPLES: fingerprint(entry.loaded.network, *about, examples, sorted(marks.items()))}


def _predictions(
    entry: Entry, shared: list, missing: list[int], examples: list[Example], device: str
) -> Iterator[tuple[str, Computed | np.ndarray]]:
    """In a Ray task: the predictions of the data sets whose numbers are `missing`, one after the other, then the examples."""
    place = torch.device(device)
    network = entry.loaded.network.to(place).eval()
    for k in missing:
        material = ray.get(shared[k])
        yield material.name, compute(network, entry, material, entry.groups[k], place)
    if examples:
        yield _EXAMPLES, example_curves(network, [ray.get(one) for one in shared], examples, place)


def compute(network, entry: Entry, material: Material, group: np.ndarray, device: torch.device) -> Computed:
    """Returns the predictions of a network for a data set: tables of the benchmark, and readings of whole windows."""
    tables = {
        key: predict(network, material.table, targets, entry.task, device)
        for key, targets in material.targets.items()
        if entry.task == "pick" or (entry.task == "detect" and key.endswith("task1"))
    }
    readings = {
        split: read_whole(
            *(network, material.table, split, entry.task, device, entry.label_width_s, group, len(entry.classes))
        )
        for split in SPLITS
    }
    return tables, readings


def _examples(entries: list[Entry], place: Location, materials, examples: list[Example]) -> dict[str, np.ndarray]:
    arrays = example_windows(materials, examples)
    for entry in entries:
        file = place / entry.name / _EXAMPLES / "curves.npz"
        if entry.task != "classify" and file.exists():
            with file.open() as stream, np.load(stream) as stored:
                arrays[f"probability/{entry.name}"] = stored["curves"]
    return arrays
