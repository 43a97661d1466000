"""How fast an archive is picked, from miniSEED files to picks, beside SeisBench's PhaseNet by `classify` on the same files.

    python -m benchmarks.picking --days 4                  # on the CPUs of this machine
    python -m benchmarks.picking --days 8 --device cuda

The files are days of three components at 100 Hz: red noise in counts, with ObsPy's example earthquake a hundred times a day. PhaseNet has
random weights, and a threshold that it seldom reaches. The last line is one JSON object; station-days an hour are of the whole machine.
"""

import argparse
import json
import logging
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import obspy
import ray
import seisbench.models
import torch

from raysys.cluster import connect
from raysys.picking.run import Picking, pick_archive

RATE_HZ, DAY = 100, 8_640_000


def write_days(folder: Path, days: int) -> list[Path]:
    """Returns the files of one station on so many days, in an SDS archive."""
    quake = {trace.stats.channel[-1]: trace.data for trace in obspy.read()}
    rng, files = np.random.default_rng(0), []
    for day in range(days):
        begin = obspy.UTCDateTime(2020, 1, 1) + 86_400 * day
        for component in "ZNE":
            noise = np.cumsum(rng.standard_normal(DAY).astype(np.float32))
            noise -= np.convolve(noise, np.full(501, 1 / 501, np.float32), mode="same")
            for place in rng.integers(0, DAY - 3000, 100):
                noise[place : place + 3000] += quake[component]
            header = {
                "network": "XX",
                "station": "PICK",
                "channel": f"HH{component}",
                "sampling_rate": RATE_HZ,
                "starttime": begin,
            }
            name = f"2020/XX/PICK/HH{component}.D/XX.PICK..HH{component}.D.2020.{day + 1:03d}"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            obspy.Trace(noise.astype(np.int32), header).write(str(folder / name), format="MSEED")
            files.append(folder / name)
    return files


def seconds_of_phasenet(files: list[Path], device: str) -> float:
    """Seconds to read and classify all files, day by day, as a script does it that has the machine for itself."""
    network = seisbench.models.PhaseNet(phases="PSN").to(device)
    begin = time.perf_counter()
    for first in range(0, len(files), 3):
        stream = obspy.Stream()
        for file in files[first : first + 3]:
            stream += obspy.read(str(file))
        network.classify(stream, batch_size=1024, P_threshold=0.99, S_threshold=0.99)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=4)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--picker", default="default")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    connect()
    result = {"cpus": os.cpu_count(), "days": options.days, "device": options.device, "picker": options.picker}
    with tempfile.TemporaryDirectory() as folder:
        files = write_days(Path(folder) / "archive", options.days)
        result["mib_a_day"] = round(sum(file.stat().st_size for file in files) / options.days / 2**20, 1)
        told = [
            pick_archive(
                (str(Path(folder) / "archive"),),
                str(Path(folder) / f"picks{k}"),
                Picking(picker=options.picker, device=options.device),
            )
            for k in range(options.rounds)
        ]
        ray.shutdown()
        torch.set_num_threads(os.cpu_count() or 1)
        theirs = [seconds_of_phasenet(files, options.device) for _ in range(options.rounds)]
    for name, seconds in (("picker", [one["seconds"] for one in told]), ("phasenet", theirs)):
        result[f"{name}_station_days_an_hour"] = round(options.days / min(seconds) * 3600, 1)
    result["picks"] = told[0]["picks"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
