"""How fast a trained picker reads continuous data, beside SeisBench's PhaseNet in the same run.

    python -m benchmarks.inference             # base preset; on a GPU if there is one, and on one CPU core

Both networks get the same continuous three-component record at 100 Hz, cut into their own windows without overlap, and
take turns. "x real time" is seconds of record for each second of computing; overlap divides it. The last line is one
JSON object.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import seisbench.models
import torch

from model.picker import PhasePicker
from raysys.presets import PRESETS

RATE_HZ = 100.0


def networks(preset: str) -> dict[str, tuple[torch.nn.Module, int]]:
    """Name -> network with random weights, and samples of its window."""
    torch.manual_seed(0)
    config = PRESETS[preset]().model
    phasenet = seisbench.models.PhaseNet(phases="PSN")
    return {"picker": (PhasePicker(config), config.window_samples), "phasenet": (phasenet, phasenet.in_samples)}


def reader(network: torch.nn.Module, samples: int, batch: int, device: torch.device) -> Callable[[], None]:
    """A function that reads one batch of windows."""
    network = network.to(device).eval()
    windows = torch.randn(batch, 3, samples, device=device)
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def read() -> None:
        with torch.inference_mode(), bf16:
            network(windows)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return read


def measure(preset: str, device: torch.device, batch: int, rounds: int) -> dict[str, float]:
    """Windows a second and x real time of each network, medians over rounds in which they take turns."""
    loaded = networks(preset)
    readers = {name: reader(network, samples, batch, device) for name, (network, samples) in loaded.items()}
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(rounds + 2):
        for name, read in readers.items():
            begin = time.perf_counter()
            read()
            if number >= 2:
                seconds[name].append(time.perf_counter() - begin)
    out = {}
    for name, (network, samples) in loaded.items():
        rate = batch / statistics.median(seconds[name])
        out[f"{name}_windows_per_s"] = round(rate, 1)
        out[f"{name}_x_real_time"] = round(rate * samples / RATE_HZ)
        out[f"{name}_parameters"] = sum(p.numel() for p in network.parameters())
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base", choices=sorted(PRESETS))
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    places = {"gpu": ("cuda", 256)} if torch.cuda.is_available() else {}
    result = {}
    for place, (device, batch) in (places | {"one_cpu_core": ("cpu", 8)}).items():
        result[place] = measure(options.preset, torch.device(device), batch, options.rounds)
        for name, value in result[place].items():
            print(f"{place:14s} {name:26s} {value}", flush=True)
    if places:
        result["gpu"]["device"] = torch.cuda.get_device_name()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
