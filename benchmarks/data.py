"""How fast windows come: SeisBench's way, this reader alone, and the Ray Data stream into training workers.

Command: python -m benchmarks.data. Writes SeisBench folders of noise, checks that all paths deliver the same samples, then
measures. All paths read files in the page cache. Rounds visit the paths in turn and medians are told, because other
work on the machine disturbs single figures. The last line is one JSON object.
"""

import argparse
import cProfile
import json
import os
import pstats
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer

import raysys  # noqa: F401  (sets what Ray reads when it is imported)
from raysys.cluster import connect
from raysys.config import DataConfig, RunConfig
from raysys.console import configure_logging
from raysys.data.corpus import load_corpus, select, train_plan
from raysys.data.datasource import cut_windows
from raysys.data.shards import prepare
from raysys.data.stream import Worker, process_batches, ray_batches
from raysys.data.windows import Traces, read_windows
from raysys.ray_internals import object_store_summary

WINDOW, BATCH, BLOCK = 4096, 64, 512
WINDOW_BYTES = 3 * WINDOW * 4
COLUMNS = 56
"""Of the metadata, as many as the data sets of SeisBench have (17 to 115); its reader makes a dictionary of them for
every trace."""
H200_WINDOWS_PER_S = 3500
"""What one H200 is to be fed with."""


def write_set(folder: Path, traces: int, samples: int, rate_hz: float, *, holes: bool = False) -> None:
    """Writes a SeisBench folder of noise in blocks of 1,024 traces; with `holes` the samples are never written."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).standard_normal((1024, 3, samples)).astype(np.float32)
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    columns = ["trace_name", "trace_sampling_rate_hz", "split", "trace_p_arrival_sample", "source_id", "station_code"]
    lines = [",".join(columns + [f"trace_property_{i}" for i in range(COLUMNS - len(columns))])]
    properties = ",".join(["0.125", "text"] * ((COLUMNS - len(columns)) // 2))
    with h5py.File(folder / "waveforms.hdf5", "w") as file:
        group = file.create_group("data")
        for first in range(0, traces, 1024):
            block, rows = f"bucket{first // 1024}", min(1024, traces - first)
            space = h5py.h5s.create_simple((rows, 3, samples))
            node = h5py.Dataset(h5py.h5d.create(group.id, block.encode(), h5py.h5t.IEEE_F32LE, space, early))
            if not holes:
                node[...] = noise[:rows] + first
            names = (f'"{block}${row},:3,:{samples}"' for row in range(rows))
            lines += [
                f"{n},{rate_hz},train,{samples // 3},e{(first + i) // 8},S{i % 97},{properties}"
                for i, n in enumerate(names)
            ]
        file["data_format/dimension_order"], file["data_format/component_order"] = "CW", "ZNE"
        file["data_format/sampling_rate"] = rate_hz
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def settings(root: Path, name: str, **more) -> DataConfig:
    """The configuration of one set; two reading tasks run at a time beside the consumers on two cores."""
    options = {"root": str(root), "datasets": (name,), "cache": str(root.parent / "cache"), "cpus_per_read": 0.9}
    return DataConfig(**options | more)


def load(config: DataConfig):
    """Configuration, training split and plan."""
    traces = Traces.from_table(select(load_corpus(config), "train"))
    return config, traces, train_plan(config, traces, seed=0)


def seisbench_generator(folder: Path):
    """SeisBench's reader the way its users set it up for pretraining."""
    import seisbench.data
    from seisbench import generate

    data = seisbench.data.WaveformDataset(folder, sampling_rate=100, component_order="ZNE", cache=None)
    generator = generate.GenericGenerator(data)
    steps = [generate.RandomWindow(windowlen=WINDOW, strategy="pad"), generate.ChangeDtype(np.float32)]
    generator.add_augmentations([*steps, generate.Normalize(demean_axis=-1, amp_norm_axis=-1, amp_norm_type="std")])
    return data, generator


def check(root: Path, direct, shards) -> None:
    """Raises unless SeisBench, this reader, its shards and the Ray Data stream deliver the same samples."""
    config, traces, plan = direct
    data, _ = seisbench_generator(root / "noise")
    place = {name: i for i, name in enumerate(data.metadata["trace_name"])}
    names = load_corpus(config)["trace_name"].to_pylist()
    ids = np.arange(0, len(traces), len(traces) // 50)
    ours, _ = read_windows(traces, ids, np.full(len(ids), 777), WINDOW)
    theirs = np.stack([data.get_waveforms(place[names[i]])[:, 777 : 777 + WINDOW] for i in ids])
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(ours, read_windows(shards[1], ids, np.full(len(ids), 777), WINDOW)[0])
    arguments = (plan, config, WINDOW, Worker(0, 1, BATCH), 96, 20)
    pairs = zip(process_batches(traces, *arguments), ray_batches(ray.put(traces), *arguments), strict=True)
    if not all(torch.equal(x, y) for a, b in pairs for x, y in zip(a, b, strict=True)):
        raise AssertionError("the Ray Data stream and the in-process reader differ")
    print("checked: SeisBench, direct reader, shards and stream deliver the same samples", flush=True)


def rate(counts: Iterable[int]) -> tuple[float, float, float]:
    """Windows a second of wall time and of this process's core time after the first count, and seconds before it."""
    begin = time.perf_counter()
    counts = iter(counts)
    next(counts)
    first, cpu = time.perf_counter(), time.process_time()
    windows = sum(counts)
    return windows / (time.perf_counter() - first), windows / (time.process_time() - cpu), first - begin


def raw_reads(file: Path) -> float:
    """Windows a second that a sequential read of the same file would make."""
    begin, buffer, total = time.perf_counter(), bytearray(4 << 20), 0
    with open(file, "rb", buffering=0) as stream:
        while got := stream.readinto(buffer):
            total += got
    return total / WINDOW_BYTES / (time.perf_counter() - begin)


def generator_counts(generator, num: int):
    for i in np.random.default_rng(0).integers(0, len(generator), num).tolist():
        generator[i]
        yield 1


def loader_counts(generator, num: int):
    """The torch DataLoader with two processes."""
    from seisbench.util import worker_seeding

    order = torch.utils.data.RandomSampler(generator, num_samples=num)
    for batch in torch.utils.data.DataLoader(
        generator, batch_size=BATCH, sampler=order, num_workers=2, worker_init_fn=worker_seeding
    ):
        yield len(batch["X"])


def direct_counts(traces: Traces, plan, num: int):
    """Blocks as a reading task cuts them, in this thread."""
    for first in range(0, num, BLOCK):
        epochs, visits = plan.visits(first, BLOCK)
        yield len(cut_windows(traces, plan, epochs, visits, WINDOW)["num_valid"])


def own_mb() -> float:
    """Resident memory of this process without what it shares, such as the object store."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE") / 2**20


def cluster_seconds() -> float:
    """Core seconds that the processes of this Ray node have used."""
    import psutil  # comes with Ray

    raylet = psutil.Process(os.getppid())
    total = 0.0
    for process in (raylet, *raylet.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def consume(args: dict) -> None:
    """A training worker that does nothing but take batches: rounds of the in-process reader and the stream in turn."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    config, reference, plan = args["data"]
    traces, steps = ray.get(reference), args["windows"] // BATCH // world
    rows = []
    for _ in range(args["rounds"]):
        row = {}
        arguments = (plan, config, WINDOW, Worker(rank, world, BATCH), 0, steps)
        if world == 1:
            row["process"], row["process_core"], _ = rate(len(b.trace) for b in process_batches(traces, *arguments))
        seconds, begin, row["own_mb"] = cluster_seconds(), time.perf_counter(), []

        def sizes(row=row) -> Iterator[int]:
            for number, batch in enumerate(ray_batches(reference, *arguments), start=1):  # noqa: B023
                if number * BATCH * world % plan.epoch_windows == 0:
                    row["own_mb"].append(own_mb())
                yield len(batch.trace)

        row["stream"], _, row["first_s"] = rate(sizes())
        row["cores"] = (cluster_seconds() - seconds) / (time.perf_counter() - begin)
        rows.append(row)
    (Path(args["folder"]) / f"{rank}.json").write_text(json.dumps(rows))


def through_train(data, folder: Path, workers: int, windows: int, rounds: int) -> list[list[dict]]:
    """What `consume` measured, worker by worker."""
    folder.mkdir(parents=True)
    config, traces, plan = data
    args = {"data": (config, ray.put(traces), plan), "windows": windows, "rounds": rounds, "folder": str(folder)}
    TorchTrainer(
        consume,
        train_loop_config=args,
        scaling_config=ray.train.ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.05}),
        run_config=ray.train.RunConfig(name="bench", storage_path=str(folder)),
    ).fit()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(workers)]


def first_batch(root: Path) -> dict[str, float]:
    """Seconds from nothing to the first batch on 100,000 traces that nobody has indexed."""
    begin = time.perf_counter()
    config, traces, plan = load(settings(root, "large"))
    indexed = time.perf_counter()
    next(ray_batches(ray.put(traces), plan, config, WINDOW, Worker(0, 1, BATCH), 0, 64))
    return {"index_s": indexed - begin, "first_batch_s": time.perf_counter() - begin}


def profile(data) -> list[str]:
    """Where the direct reader spends its time, the five largest."""
    _, traces, plan = data
    watch = cProfile.Profile()
    watch.runcall(lambda: sum(direct_counts(traces, plan, 8192)))
    stats = pstats.Stats(watch).stats
    total = sum(entry[2] for entry in stats.values())
    largest = sorted(stats.items(), key=lambda item: -item[1][2])[:5]
    return [f"{100 * entry[2] / total:.0f} % {Path(place[0]).name}:{place[2]}" for place, entry in largest]


def side_by_side(root: Path, direct, slow) -> Iterator[dict[str, float]]:
    """Windows a second of the paths in one process, and of the DataLoader, round by round."""
    _, generator = seisbench_generator(root / "noise")
    _, slow_generator = seisbench_generator(root / "slow")
    while True:
        paths = {
            "seisbench": generator_counts(generator, 1500),
            "direct": direct_counts(direct[1], direct[2], 1 << 15),
            "seisbench_40hz": generator_counts(slow_generator, 800),
            "direct_40hz": direct_counts(slow[1], slow[2], 1 << 13),
            "dataloader": loader_counts(generator, 80 * BATCH),
            "dataloader_40hz": loader_counts(slow_generator, 40 * BATCH),
        }
        row = {"raw": raw_reads(root / "noise" / "waveforms.hdf5")}
        for name, counts in paths.items():
            row[name], row[f"{name}_core"], _ = rate(counts)
        yield row


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def measure(folder: Path, rounds: int, traces: int) -> dict:
    """Everything, in one run."""
    root = folder / "data"
    write_set(root / "noise", traces, 6000, 100.0)
    write_set(root / "slow", 4096, 4800, 40.0)
    write_set(root / "large", 100_000, 6000, 100.0, holes=True)
    connect(num_cpus=2)
    direct, slow = load(settings(root, "noise")), load(settings(root, "slow"))
    prepare(RunConfig(data=settings(root, "noise")), str(folder / "shards"))
    shards = load(settings(folder / "shards", "noise"))
    check(root, direct, shards)
    out = {"first_batch_of_100000": first_batch(root), "profile": profile(direct)}
    windows, rows, ones = 4 * traces, [], []
    for number, row in zip(range(rounds), side_by_side(root, direct, slow), strict=False):
        [one] = through_train(direct, folder / f"one-{number}", 1, windows, 2)  # the first warms the object store
        ones.append(one[-1])
        rows.append(row | {name: one[-1][name] for name in ("process", "stream")})
    out |= {name: median(row[name] for row in rows) for name in rows[0]}
    two = through_train(direct, folder / "two", 2, windows, rounds)
    [packed] = through_train(shards, folder / "packed", 1, windows, rounds)
    config, *rest = direct
    [alone] = through_train((replace(config, cpus_per_read=1.9), *rest), folder / "alone", 1, windows, rounds)
    [low] = through_train(slow, folder / "low", 1, windows // 4, rounds)
    out["stream_two_workers"] = median(a["stream"] + b["stream"] for a, b in zip(*two, strict=True))
    out["stream_one_reader"] = median(row["stream"] for row in alone)
    out["stream_shards"] = median(row["stream"] for row in packed)
    out["stream_40hz"] = median(row["stream"] for row in low)
    out["stream_first_s"] = median(row["first_s"] for row in ones)
    out["own_mb_after_each_epoch"] = ones[-1]["own_mb"]
    for name, some in (("stream", ones), ("stream_40hz", low)):
        per_window = median(row["cores"] / row["stream"] for row in some)
        out[f"{name}_core_us_per_window"] = 1e6 * per_window
        out[f"{name}_cores_for_one_h200"] = H200_WINDOWS_PER_S * per_window
    for name, above, below in (
        ("direct_over_seisbench", "direct_core", "seisbench_core"),
        ("direct_over_seisbench_40hz", "direct_40hz_core", "seisbench_40hz_core"),
        ("stream_over_dataloader", "stream", "dataloader"),
        ("stream_over_inprocess", "stream", "process"),
    ):
        out[name] = median(row[above] / row[below] for row in rows)
    out["stream_over_dataloader_40hz"] = out["stream_40hz"] / out["dataloader_40hz"]
    return out


def rounded(value):
    """The value with three significant digits, wherever there is a number in it."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.3g}")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--traces", type=int, default=16_384)
    options = parser.parse_args()
    configure_logging()
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's is 15, DataLoader's 0: other work would favour DataLoader
    with tempfile.TemporaryDirectory(prefix="windows-") as folder:
        result = rounded(measure(Path(folder), options.rounds, options.traces))
        print(object_store_summary())
        ray.shutdown()
    result |= {"cores": os.cpu_count(), "load_15_min": os.getloadavg()[2], "unit": "windows of (3, 4096) a second"}
    for name, value in result.items():
        print(f"{name:30s} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
