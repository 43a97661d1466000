"""Real seismograms that come with the obspy package, as one more data set in SeisBench format.

They are files of obspy's own tests: mostly local earthquakes (Bavaria, Jan Mayen, Montserrat, Japan and others). Few, but
real: 50 to 200 Hz, one to three components, some with several events.
"""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from raysys.miniature.quirks import EVENT_SPLITS
from raysys.miniature.write import log_folder, whole_or_nothing, write_chunk

FOLDER = "obspy_examples"

COMPONENTS = {"EW": "E", "NS": "N", "UD": "Z"}
"""Channel names that do not end in the letter of their component."""

SKIPPED_CHANNELS = ("SLZ", "A N", "BC", "MI")
"""Long-period duplicates and time signals within the event files of SEISAN."""

logger = logging.getLogger("raysys.miniature")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One event file of obspy's tests, or one event spread over several files."""

    files: tuple[str, ...]
    """Paths within the package; empty for the stream that obspy.read() gives."""
    columns: dict | None = None
    """For bare columns of numbers: network, station, channels (Z first), rate in Hz, start, samples to keep."""
    p_sample: float | None = None
    """P onset found by the picker whose value obspy's test asserts; None where nothing is published."""


RECORDINGS = (
    Recording(files=()),
    Recording(
        files=tuple(f"signal/tests/data/loc_RJOB20050801145719850.{c}" for c in "zne"),
        columns={
            "id": ("BW", "RJOB", "EHZ EHN EHE"),
            "rate": 200.0,
            "start": "2005-08-01T14:57:19.850",
            "keep": (0, 12000),
        },
        p_sample=30.635 * 200,  # test_ar_pick; its S onset depends on the machine and is left out
    ),
    Recording(
        files=("signal/tests/data/manz_waldk.a01.gz",),
        columns={"id": ("", "WALDK", "EHZ"), "rate": 200.0, "start": None, "keep": (12000, 30000)},
        p_sample=17545 - 12000,  # test_pk_baer
    ),
    Recording(files=("io/gse2/tests/data/loc_RJOB20050831023349.z",)),
    Recording(files=("io/gse2/tests/data/loc_RNON20040609200559.z",)),
    Recording(files=("io/gse2/tests/data/loc_STAU20031119011659.z",)),
    Recording(
        files=tuple(
            f"signal/tests/data/BW.{name}.D.2010.147.cut.slist.gz"
            for name in ("UH1._.SHZ", "UH2._.SHZ", "UH3._.SHZ", "UH3._.SHN", "UH3._.SHE", "UH4._.EHZ")
        )
    ),
    Recording(files=("io/seisan/tests/data/90010319.1320J90",)),
    Recording(files=("io/seisan/tests/data/9701-30-1048-54S.MVO_21_1",)),
    Recording(files=("io/seisan/tests/data/2011-09-06-1311-36S.A1032_001BH_Z",)),
    Recording(files=("io/nied/tests/data/test.knet",)),
    Recording(files=("io/y/tests/data/YAYT_BHZ_20021223.124800",)),
    Recording(files=("io/y/tests/data/YAZRSPE.20100119.060433",)),
    Recording(files=("signal/tests/data/CRLZ.HHZ.10.NZ.SAC",)),
)


def write_obspy_examples(root: Path | str, seed: int = 0) -> Path:
    """Returns the folder `root`/obspy_examples, holding every recording that the installed obspy contains.

    Picks are the published ones of obspy's own picker tests and no others. A component that was not recorded is zero and
    absent from `trace_components`. Records of one event share `source_id` and a split, which `seed` assigns.

    Raises:
        ValueError: a folder of that name is in the way and was not written by this package.
    """
    began = time.perf_counter()
    splits = np.random.default_rng(seed).permutation(np.resize(EVENT_SPLITS, len(RECORDINGS)))
    rows, waves, absent = [], [], 0
    for index, recording in enumerate(RECORDINGS):
        stream = _read(recording)
        absent += stream is None
        for row, wave in _stations(stream or []):
            pick = {"trace_P_arrival_sample": recording.p_sample, "trace_P_status": recording.p_sample and "automatic"}
            name = f"obspy{index:02d}_{row['station_network_code']}.{row['station_code']}"
            event = {"source_id": f"obspy{index:02d}", "split": str(splits[index]), "trace_name": name}
            rows.append(event | row | pick)
            waves.append(wave)
    if absent:
        logger.warning("obspy_examples: %d of %d recordings are not in the installed obspy", absent, len(RECORDINGS))
    data_format = {
        "dimension_order": "CW",
        "component_order": "ZNE",
        "measurement": "velocity or acceleration",
        "unit": "counts",
        "instrument_response": "not restituted",
    }
    folder = Path(root) / FOLDER
    with whole_or_nothing(folder, {"name": FOLDER, "seed": seed}) as unfinished:
        write_chunk(unfinished, "", data_format, rows, waves)
    log_folder(FOLDER, folder, pd.DataFrame(rows), time.perf_counter() - began)
    return folder


def _read(recording: Recording):
    """The obspy Stream of a recording, or None where the package does not hold its files."""
    import obspy  # takes a second to import

    if not recording.files:
        return obspy.read()
    paths = [Path(obspy.__file__).parent / file for file in recording.files]
    if not all(path.exists() for path in paths):
        return None
    if recording.columns is None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Invalid non-ASCII characters in Y file header")
            return sum((obspy.read(str(path)) for path in paths), obspy.Stream())
    network, station, channels = recording.columns["id"]
    start, stop = recording.columns["keep"]
    header = {"network": network, "station": station, "sampling_rate": recording.columns["rate"]}
    if recording.columns["start"]:
        header["starttime"] = obspy.UTCDateTime(recording.columns["start"])
    return obspy.Stream(
        obspy.Trace(np.loadtxt(path, dtype=np.float32)[start:stop], header | {"channel": channel})
        for path, channel in zip(paths, channels.split(), strict=True)
    )


def _stations(stream) -> list[tuple[dict, np.ndarray]]:
    """Metadata and waveform (3, T) of each station of a stream; components that are missing stay zero."""
    groups: dict[tuple, dict] = {}
    for trace in stream:
        channel = trace.stats.channel.strip()
        component = COMPONENTS.get(channel, channel[-1:])
        if channel not in SKIPPED_CHANNELS and component in "ZNE":
            groups.setdefault((trace.stats.network, trace.stats.station), {})[component] = trace
    out = []
    for (network, station), traces in groups.items():
        stats = next(iter(traces.values())).stats
        if any(trace.stats.npts != stats.npts for trace in traces.values()):
            raise ValueError(f"obspy_examples: components of {network}.{station} differ in length")
        wave = np.zeros((3, stats.npts), np.float32)
        for component, trace in traces.items():
            wave["ZNE".index(component)] = trace.data
        row = {
            "station_network_code": network,
            "station_code": station,
            "trace_start_time": str(stats.starttime) if stats.starttime.timestamp else None,
            "trace_sampling_rate_hz": round(stats.sampling_rate, 4),
            "trace_npts": stats.npts,
            "trace_components": "".join(c for c in "ZNE" if c in traces),
        }
        out.append((row, wave))
    return out
