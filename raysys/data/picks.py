"""Onsets: which columns of the metadata hold them, which of them can be true, and the first of each wave."""

import re
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from raysys.data.metadata import Metadata

PHASES = (
    dict.fromkeys(("p", "pP", "P", "P1", "Pg", "Pn", "PmP", "pwP", "pwPm"), "P")
    | dict.fromkeys(("s", "S", "S1", "Sg", "SmS", "Sn"), "S")
    | dict.fromkeys(("Pb", "Pdif", "Pdiff", "PKP", "PKPab", "PKPbc", "PKPdf", "PKIKP", "PKiKP"), "P")
    | dict.fromkeys(("Sb", "Sdif", "Sdiff", "SKS"), "S")
)
"""Phase name of a metadata column -> P or S: those of the pick benchmark of Muenchmeyer et al. 2022, then other first
arrivals. A name with a number (`P_2`, `Pg2`) is that of a further onset."""
ACCEPTED = "trace_<phase>_arrival_sample, with a number behind the phase or none, and the phases " + ", ".join(PHASES)

_COLUMN = re.compile(r"trace_(.+)_arrival_sample")
_NUMBERED = re.compile(r"(.+?)[_-]?(\d+)")
_WORDS = {phase.lower() for phase in PHASES}
_UNITS = {"sample", "samples", "time", "times", "index", "idx", "sec", "seconds"}
_ABOUT = {
    *(
        "status",
        "weight",
        "uncertainty",
        "error",
        "err",
        "polarity",
        "quality",
        "method",
        "author",
        "residual",
        "travel",
    ),
    *(
        "snr",
        "score",
        "prob",
        "probability",
        "confidence",
        "n",
        "num",
        "number",
        "count",
        "type",
        "source",
        "path",
        "station",
    ),
}
"""Words of columns that say something about a pick, and not when it is."""


def is_pick(column: str) -> bool:
    """Whether a column holds onsets in samples, of whatever phase."""
    return _COLUMN.fullmatch(column) is not None


def _phase(column: str) -> str:
    """The phase of a column of picks, "" if it is none of `PHASES`."""
    [name] = _COLUMN.fullmatch(column).groups()
    if name not in PHASES and (numbered := _NUMBERED.fullmatch(name)):
        name = numbered[1]
    return name if name in PHASES else ""


def not_understood(header: Iterable[str]) -> list[str]:
    """Returns the columns that look like picks, and are not read as P or as S."""
    header = tuple(dict.fromkeys(header))
    known = tuple(c.removesuffix("arrival_sample") for c in header if is_pick(c) and _phase(c))
    return [c for c in header if not (known and c.startswith(known)) and (is_pick(c) or _looks_like_pick(c))]


def _looks_like_pick(column: str) -> bool:
    words = set(re.split(r"[\W_]+", column.lower()))
    if words & _ABOUT:
        return False
    named = re.search(r"pick|arrival|onset", column.lower()) is not None
    return named or bool(words & _WORDS and words & _UNITS)


def read_onsets(metadata: Metadata, num_samples: np.ndarray, rates: np.ndarray) -> dict[str, pa.Array | np.ndarray]:
    """Returns the onsets of every trace in seconds after its first sample, as columns of an index.

    `p_s` and `s_s` are the first P and S (NaN where there is none), `p_phase` and `s_phase` the phases they were given,
    `p_more_s` and `s_more_s` the later ones, `other_s` those of phases that are neither. `outside` counts the onsets that
    cannot be: those outside their trace, as the -12345, -1 and -999 that stand for "none", and the zeros of a column with
    more than one, for nobody sees an onset at the first sample.
    """
    columns = [(c, _phase(c)) for c in metadata.header if is_pick(c)]
    order = list(PHASES)
    out: dict[str, pa.Array | np.ndarray] = {"outside": np.zeros(len(metadata), np.int32)}
    for wave in ("P", "S", "other"):
        mine = [(c, phase) for c, phase in dict(columns).items() if PHASES.get(phase, "other") == wave]
        mine.sort(key=lambda one: order.index(one[1]) if one[1] else 0)
        samples = np.full((len(metadata), len(mine) + 1), np.inf)  # the last column stands for none
        for k, (column, _) in enumerate(mine):
            samples[:, k], impossible = _possible(metadata.numbers((column,)), num_samples)
            out["outside"] += impossible
        with np.errstate(divide="ignore", invalid="ignore"):
            seconds = np.sort(samples, axis=1) / rates[:, None]
        if wave == "other":
            out["other_s"] = _lists(seconds)
            continue
        name = wave.lower()
        out[f"{name}_s"] = np.where(np.isinf(samples).all(axis=1), np.nan, seconds[:, 0])
        phases = pa.array([*(phase for _, phase in mine), ""], pa.string())
        first = np.where(np.isinf(samples).all(axis=1), len(mine), np.argmin(samples, axis=1))
        out[f"{name}_phase"] = phases.take(pa.array(first))
        seconds[:, 1:][seconds[:, 1:] == seconds[:, :-1]] = np.inf  # one onset under two names
        out[f"{name}_more_s"] = _lists(seconds[:, 1:])
    return out


def _possible(samples: np.ndarray, num_samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Onsets in samples, infinite where there is none, and which are none because they cannot be."""
    given = ~np.isnan(samples)
    good = (samples >= 0) & (samples < num_samples)
    if (samples == 0).sum() > 1:
        good &= samples != 0
    return np.where(good, samples, np.inf), given & ~good


def _lists(seconds: np.ndarray) -> pa.Array:
    """The finite numbers of each row."""
    kept = np.isfinite(seconds)
    ends = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(ends, seconds[kept])
