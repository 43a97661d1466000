"""The eight data sets of the pretraining corpus, and how a name becomes a folder.

Facts are those of SeisBench's documentation (Woollam et al. 2022); sizes are of the files it serves.
"""

import difflib
from dataclasses import dataclass

import fsspec

from raysys.data.files import with_retries


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

PHASES = dict.fromkeys(("p", "pP", "P", "P1", "Pg", "Pn", "PmP", "pwP", "pwPm"), "P") | dict.fromkeys(
    ("s", "S", "S1", "Sg", "SmS", "Sn"), "S"
)
"""Phase name of a metadata column -> P or S, as in the pick benchmark of Muenchmeyer et al. 2022."""


def resolve(names: tuple[str, ...], root: str) -> dict[str, str]:
    """Returns data set name -> folder, in the order asked for.

    Args:
        names: names of the eight (in any case), names of folders below `root`, "all8", "all", or paths.
        root: folder or URL that holds the data sets.

    Raises:
        ValueError: a name that is neither known nor a folder (with the nearest that is), or a root that is a data set.
        FileNotFoundError: a known data set whose folder is missing, or a root without any data set.
    """
    found = folders(root)
    if not found and _is_dataset(root):
        raise ValueError(f"data.root={root} is itself a data set: give its parent folder")
    canonical = {name.lower(): name for name in EIGHT}
    out: dict[str, str] = {}
    for name in names:
        if name == "all8":
            wanted = list(EIGHT)
        elif name == "all":
            wanted = list(found)
            if not wanted:
                raise FileNotFoundError(f"data.root={root}: no folder below it holds metadata*.csv or index.parquet")
        else:
            wanted = [canonical.get(name.lower(), name)]
        for one in wanted:
            label = canonical.get(one.lower(), one)
            if one.lower() in found:
                out[label] = found[one.lower()]
            elif _is_dataset(one):
                out[one.rstrip("/").split("/")[-1]] = one
            elif label in EIGHT:
                raise FileNotFoundError(
                    f"data set {label}: no folder {root}/{label.lower()} with metadata and waveforms. "
                    f"Fetch it with `python -m jobs.prepare base --data.datasets {label} --download`, or set data.root"
                )
            else:
                near = difflib.get_close_matches(one, [*EIGHT, *found], n=1, cutoff=0.4)
                hint = f": did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"data.datasets: unknown data set {one!r}{hint} (known: {', '.join(EIGHT)}, all8, all)"
                )
    return out


def folders(root: str) -> dict[str, str]:
    """Returns lower-case folder name -> path for every data set directly below `root`."""
    fs, path = fsspec.core.url_to_fs(root)
    if not with_retries(lambda: fs.exists(path), root):
        return {}
    entries = with_retries(lambda: fs.ls(path, detail=True), root)
    children = sorted(entry["name"] for entry in entries if entry["type"] == "directory")
    full = [fs.unstrip_protocol(child) if "://" in root else child for child in children]
    return {folder.rstrip("/").split("/")[-1].lower(): folder for folder in full if _is_dataset(folder)}


def _is_dataset(folder: str) -> bool:
    fs, path = fsspec.core.url_to_fs(folder)
    return with_retries(lambda: bool(fs.exists(f"{path}/index.parquet") or fs.glob(f"{path}/metadata*.csv")), folder)
