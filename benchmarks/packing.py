"""How many trials should share a GPU? Windows per second of 1, 2, 4 and 8 training processes on one device.

    python -m benchmarks.packing [--preset base] [--counts 1 2 4 8] [--seconds 5]

Every process trains the step of the preset, compiled and recorded as a CUDA graph where the preset says so, on windows that lie on
the device already: what is measured is sharing, not reading. The first process builds its step alone and fills the
compiler's caches, the others build theirs together; then ever more of them train at the same time. The last line is one
JSON object.
"""

import argparse
import json
import time
from multiprocessing import Barrier, Process, SimpleQueue, set_start_method

import torch

from benchmarks.gpu_watch import GpuWatch
from model.pretrain import PretrainModel
from raysys.config import RunConfig
from raysys.data.stream import Batch
from raysys.presets import PRESETS
from raysys.train.optim import StepGuard, build_optimizer, set_lr
from raysys.train.step import CapturedStep, TrainStep


def built_step(config: RunConfig, device: torch.device):
    """Returns a function that trains one step of the configuration; everything is compiled when it returns."""
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    captures = config.train.compile and device.type == "cuda"
    if captures:
        torch.cuda.set_stream(torch.cuda.Stream(device))
    model = PretrainModel(config.model, config.mask, config.loss).to(device).train()
    optimizer = build_optimizer(model, config.optim, device)
    set_lr(optimizer, 0.1)
    batch, samples = config.train.batch_size, config.model.window_samples
    number = torch.full((batch,), samples, device=device, dtype=torch.int32)
    windows = [Batch(torch.randn(batch, 3, samples, device=device), number, number, number, number, number)]
    step = TrainStep(model, optimizer, StepGuard(device), config, device)
    if captures:
        model.compile_parts()
        step = CapturedStep(step)
    for _ in range(CapturedStep.WARM_UP + 2 if captures else 2):
        step(windows)
    synchronize(device)
    return lambda: step(windows)


def synchronize(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def member(index: int, config: RunConfig, counts: list[int], seconds: float, gate, found: SimpleQueue) -> None:
    """One of the processes; puts (count, steps, seconds) for every round that it takes part in."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = built_step(config, device) if index == 0 else None
    gate.wait()
    step = step or built_step(config, device)
    for count in counts:
        gate.wait()
        if index >= count:
            continue
        begin, done = time.monotonic(), 0
        while time.monotonic() < begin + seconds:
            for _ in range(4):
                step()
            synchronize(device)
            done += 4
        found.put((count, done, time.monotonic() - begin))
    gate.wait()


def measure(config: RunConfig, counts: list[int], seconds: float) -> dict[str, dict[str, float]]:
    """Returns, for each count, windows per second of all processes, milliseconds of a step, and the GPU's idle share."""
    gate, found = Barrier(max(counts) + 1, timeout=600), SimpleQueue()
    members = [Process(target=member, args=(i, config, counts, seconds, gate, found)) for i in range(max(counts))]
    for process in members:
        process.start()
    start = time.monotonic()
    gate.wait()
    print(f"the first process was ready after {time.monotonic() - start:.0f} s", flush=True)
    results = {}
    with GpuWatch() as watch:
        for count in counts:
            gate.wait()
            begin = time.monotonic()
            rounds = [found.get() for _ in range(count)]
            rate = sum(steps / took for _, steps, took in rounds)
            idle = watch.idle(begin + 1, time.monotonic())
            results[str(count)] = {
                "windows_per_s": round(rate * config.train.batch_size, 1),
                "step_ms": round(1e3 * count / rate, 2),
                "gpu_idle_share": idle,
            }
            print(f"{count} processes: {results[str(count)]}", flush=True)
        gate.wait()
    for process in members:
        process.join()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base", choices=sorted(PRESETS))
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=5.0, help="of every round")
    options = parser.parse_args()
    set_start_method("spawn")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    results = measure(PRESETS[options.preset](), sorted(options.counts), options.seconds)
    print(json.dumps({"preset": options.preset, "device": device, "processes": results}))


if __name__ == "__main__":
    main()
