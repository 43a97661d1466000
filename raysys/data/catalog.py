"""The eight data sets of the pretraining corpus, and how a name becomes a folder.

Facts are those of SeisBench's documentation (Woollam et al. 2022); sizes are of the files it serves.
"""

import difflib
import logging
from dataclasses import dataclass

from raysys.data.files import with_retries
from raysys.location import Location

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What is known of a data set before any file is opened."""

    name: str
    """Name of the class in seisbench.data, and of the folder in lower case."""
    rate_hz: float | None
    """Native sampling rate; None where it differs from trace to trace."""
    num_traces: int
    gigabytes: float
    citation: str


EIGHT = {
    facts.name: facts
    for facts in (
        DatasetFacts("ETHZ", None, 36_743, 22, "Woollam et al. 2022"),
        DatasetFacts("GEOFON", None, 275_000, 26, "GEOFON data centre, GFZ"),
        DatasetFacts("STEAD", 100, 1_270_000, 70, "Mousavi et al. 2019"),
        DatasetFacts("InstanceCounts", 100, 1_160_000, 160, "Michelini et al. 2021"),
        DatasetFacts("MLAAPDE", 40, 1_900_000, 110, "Cole et al. 2023"),
        DatasetFacts("Iquique", 100, 13_400, 5, "Woollam et al. 2019"),
        DatasetFacts("PNW", 100, 184_000, 63, "Ni et al. 2023"),
        DatasetFacts("OBST2024", 100, 60_000, 4, "Niksejel & Zhang 2024"),
    )
}


def resolve(names: tuple[str, ...], root: str) -> dict[str, str]:
    """Returns data set name -> folder (an absolute path or a URL), in the order asked for.

    Args:
        names: names of the eight (in any case), names of folders below `root`, "all8", "all", or paths.
        root: folder or URL that holds the data sets.

    Raises:
        ValueError: a name that is neither known nor a folder (with the nearest that is), two folders of one name, or a
            root that is a data set.
        FileNotFoundError: a known data set whose folder is missing, or a root without any data set.
    """
    found = folders(root)
    if not found and _is_dataset(root):
        raise ValueError(f"data.root={root} is itself a data set: give its parent folder")
    canonical = {name.lower(): name for name in EIGHT}
    out: dict[str, str] = {}
    for name in _spelt_out(names, found, root):
        label = canonical.get(name.lower(), name)
        if label.lower() in found:
            _add(out, label, found[label.lower()])
        elif _is_dataset(label):
            _add(out, Location(label).name, str(Location(label)))
        elif label in EIGHT:
            raise FileNotFoundError(
                f"data set {label}: no folder {Location(root) / label.lower()} with metadata and waveforms. "
                f"Fetch it with `python -m jobs.prepare base --data.datasets {label} --download`, or set data.root"
            )
        else:
            near = difflib.get_close_matches(name, [*EIGHT, *found], n=1, cutoff=0.4)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"data.datasets: unknown data set {name!r}{hint} (known: {', '.join(EIGHT)}, all8, all)")
    return out


def _add(out: dict[str, str], label: str, folder: str) -> None:
    """Adds a data set; names that differ in case alone are one, since shards lie in folders in lower case."""
    for other, place in out.items():
        if other.lower() == label.lower() and place != folder:
            raise ValueError(
                f"data.datasets: {place} and {folder} are two data sets of one name, {label!r}: "
                f"give one of the folders another name (a symbolic link will do)"
            )
    if folder not in out.values():
        out[label] = folder


def _spelt_out(names: tuple[str, ...], found: dict[str, str], root: str) -> list[str]:
    """The names, with those of data sets in place of "all8" and "all"."""
    if "all" in names and not found:
        raise FileNotFoundError(f"data.root={root}: no folder below it holds metadata*.csv or index.parquet")
    groups = {"all8": list(EIGHT), "all": list(found)}
    return [one for name in names for one in groups.get(name, [name])]


def folders(root: str) -> dict[str, str]:
    """Returns lower-case folder name -> folder (an absolute path or a URL) for every data set directly below `root`."""
    place = Location(root)
    out: dict[str, str] = {}
    for one in with_retries(place.folders, root) if with_retries(place.exists, root) else []:
        try:
            if _is_dataset(one):
                _add(out, one.name.lower(), str(one))
        except PermissionError:
            log.warning("%s: this user may not look into it, so it counts as no data set", one)
    return out


def _is_dataset(folder: str | Location) -> bool:
    """Whether a folder holds a data set.

    Raises:
        PermissionError: it cannot be listed.
    """
    place = Location(folder)
    return with_retries(lambda: bool((place / "index.parquet").exists() or place.glob("metadata*.csv")), place)
