"""Networks side by side on the same data: predictions in Ray tasks, scores with intervals, and the files of the result."""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch

from raysys.cluster import connect, require
from raysys.config import DataConfig
from raysys.evaluate.examples import Example, choose_examples, example_curves, example_windows, npz_bytes
from raysys.evaluate.material import Material, load_material
from raysys.evaluate.predictions import Reader, read_dataset
from raysys.evaluate.results import common_data, evaluation_json, headline, long_table, matrix, origin_of
from raysys.evaluate.stored import is_stored, load, store, weights_digest
from raysys.evaluate.summary import Summary, summarize
from raysys.location import Location

log = logging.getLogger(__name__)
_EXAMPLES = "examples"


@dataclass(frozen=True, slots=True)
class Entry:
    """A network that is evaluated.

    Attributes:
        name: its own in this evaluation.
        loaded: `raysys.networks.Loaded`.
    """

    name: str
    loaded: Any

    @property
    def task(self) -> str:
        """What it was trained for; weights from elsewhere pick."""
        return self.loaded.config.task if self.loaded.config else "pick"

    @property
    def classes(self) -> tuple[str, ...]:
        """Of a classifier."""
        return tuple(self.loaded.config.head.classes) if self.task == "classify" else ()

    def reader(self, device: str) -> Reader:
        """Returns the network on a device."""
        place = torch.device(device)
        return Reader(self.loaded.network.to(place).eval(), self.task, place, self.loaded.config)

    def marks(self, materials: list[Material], examples: list[Example], device: str) -> dict[str, str]:
        """Returns for every data set, and for the examples, a digest of all that decides the predictions."""
        classes_file = self.loaded.config.finetune.classes_file if self.classes else ""
        mine = weights_digest(self.loaded.network, self.task, self.classes, classes_file, device)
        marks = {one.name: f"{mine}-{one.fingerprint}" for one in materials}
        of = [(materials[one.dataset].fingerprint, one.row, one.start, one.end) for one in examples]
        return marks | {_EXAMPLES: weights_digest(self.loaded.network, mine, of)}


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
        sources: what `raysys.networks.load_network` takes: runs, checkpoints, weights that SeisBench publishes.
        data: the data sets.
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
    data, entries = common_data(data, loaded), _entries(loaded)
    materials = load_material(data, targets)
    place, examples = Location(out).make_folder(), choose_examples(materials)
    connect()
    _require(device)
    shared = [ray.put(one) for one in materials]
    with ThreadPoolExecutor(len(entries)) as pool:
        work = {one.name: pool.submit(_predict, one, place, materials, shared, examples, device) for one in entries}
        waiting = {
            one.name: _score(one, place, materials, resamples) for one in entries if work[one.name].result() is None
        }
    summaries: dict[str, Summary] = {name: ray.get(scored) for name, scored in waiting.items()}
    about = {"root": str(data.root), "split_seed": data.split_seed, "targets": targets, "resamples": resamples}
    origins = {one.name: origin_of(one.loaded, one.task) for one in entries}
    result = evaluation_json(origins, summaries, materials, about | {"device": device})
    (place / "metrics.csv").write(long_table(result).to_csv(index=False))
    (place / "examples.npz").write(npz_bytes(_examples(entries, place, materials, examples)))
    (place / "evaluation.json").write_json(result)
    text = matrix(result, "test_P_hit_0.5s").to_string(float_format="{:.3f}".format)
    log.info("windows of test whose highest probability of P lies within 0.5 s of one:\n%s", text)
    log.info("written to %s", place)
    return json.dumps(headline(result))


def _require(device: str) -> None:
    try:
        require({"GPU": 1} if device == "cuda" else {"CPU": 1}, "an evaluation")
    except ValueError as error:
        raise ValueError(f"--device {device}: {error}; without a GPU give --device cpu") from None


def _entries(loaded: list) -> list[Entry]:
    """The networks under names of their own, which are also those of folders."""
    entries: list[Entry] = []
    for one in loaded:
        taken = {_EXAMPLES, *(entry.name for entry in entries)}
        name = next(n for n in (one.name, *(f"{one.name}-{k}" for k in range(2, len(loaded) + 2))) if n not in taken)
        if name != one.name:
            log.warning("%s is called %s here, as its own name, %s, is taken", one.source, name, one.name)
        entries.append(Entry(name, one))
    return entries


def _predict(entry: Entry, place: Location, materials, shared: list, examples: list[Example], device: str) -> None:
    """Writes the predictions that are not there yet, data set by data set, as a Ray task delivers them."""
    folder, marks = place / entry.name, entry.marks(materials, examples, device)
    missing = [k for k, one in enumerate(materials) if not is_stored(folder / one.name, marks[one.name])]
    draws = entry.task != "classify" and not is_stored(folder / _EXAMPLES, marks[_EXAMPLES])
    if found := len(materials) - len(missing):
        log.info("%s: predictions for %d of %d data sets are there already", entry.name, found, len(materials))
    if not missing and not draws:
        return
    wanted = {"num_gpus": 1} if device == "cuda" else {}
    task = ray.remote(_predictions).options(num_returns="streaming", num_cpus=1, **wanted)
    for ref in task.remote(entry, shared, missing, examples if draws else [], device):
        name, found = ray.get(ref)
        if name == _EXAMPLES:
            (folder / name / "curves.npz").write(npz_bytes({"curves": found}))
            found = {}
        store(folder / name, found, marks[name])
        log.info("%s: predictions for %s are written", entry.name, name)


def _predictions(
    entry: Entry, shared: list, missing: list[int], examples: list[Example], device: str
) -> Iterator[tuple[str, dict[str, pd.DataFrame] | np.ndarray]]:
    """In a Ray task: the predictions for the data sets whose numbers are `missing`, one after the other, and for examples."""
    reader = entry.reader(device)
    for k in missing:
        material = ray.get(shared[k])
        yield material.name, read_dataset(reader, material.table, material.targets)
    if examples:
        yield _EXAMPLES, example_curves(reader, ray.get(shared), examples)


def _score(entry: Entry, place: Location, materials: list[Material], resamples: int) -> ray.ObjectRef:
    """The scores of what is written, in a Ray task."""
    log.info("%s: scores, with %d resamples", entry.name, resamples)
    tables = {one.name: load(place / entry.name / one.name) for one in materials}
    events = {one.name: one.events for one in materials}
    return ray.remote(summarize).options(num_cpus=1).remote(tables, events, entry.task, entry.classes, resamples)


def _examples(entries: list[Entry], place: Location, materials, examples: list[Example]) -> dict[str, np.ndarray]:
    """The arrays of examples.npz; "probability/NAME" are the curves of a network."""
    arrays = example_windows(materials, examples)
    for entry in entries:
        file = place / entry.name / _EXAMPLES / "curves.npz"
        if entry.task != "classify" and file.exists():
            with file.open() as stream, np.load(stream) as stored:
                arrays[f"probability/{entry.name}"] = stored["curves"]
    return arrays
