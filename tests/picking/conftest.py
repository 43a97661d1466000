"""Pickers that are small and untrained, whose curves rise and fall all the time, and streams to read."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import obspy
import pytest
import torch
from safetensors.torch import save_file

from model.config import BackboneConfig, EncoderConfig, HeadConfig, ModelConfig
from model.picker import PhasePicker
from raysys.picking.picks import Calibration

MODEL = ModelConfig(
    window_samples=256,
    encoder=EncoderConfig(width=32),
    backbone=BackboneConfig(width=32, num_layers=1, num_heads=2, dropout=0.3),
    highpass_hz=1.0,
)
BEGIN = obspy.UTCDateTime("2021-03-04T05:06:07")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> PhasePicker:
    """A picker of windows of 2.56 s."""
    torch.manual_seed(1)
    network = PhasePicker(MODEL, HeadConfig()).eval()
    with torch.no_grad():
        network.head[4].weight *= 40  # of an untrained one all curves are flat
        network.head[4].bias.zero_()
    return network


@pytest.fixture(scope="session")
def often(tiny) -> Calibration:
    """Thresholds that an untrained picker passes every few seconds."""
    x = torch.randn(64, 3, 256, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        p, s, _ = tiny(x).unbind(dim=1)
    return Calibration(
        p_threshold=float(p.quantile(0.995)), s_threshold=float(s.quantile(0.995)), p_spread=0.5, s_spread=0.7
    )


@pytest.fixture(scope="session")
def noise():
    """Returns a function that makes a stream of so many seconds."""

    def build(
        seconds: float, begin=BEGIN, rate=100.0, channels=("HHZ", "HHN", "HHE"), seed=0, station="AAA", location=""
    ):
        rng, codes = np.random.default_rng(seed), {"network": "XX", "station": station, "location": location}
        return obspy.Stream(
            obspy.Trace(
                rng.normal(0, 1000, round(seconds * rate)).astype(np.int32),
                codes | {"channel": channel, "starttime": begin, "sampling_rate": rate},
            )
            for channel in channels
        )

    return build


@pytest.fixture(scope="session")
def checkpoint(tiny, tmp_path_factory) -> Path:
    """A fine-tuned run's checkpoint with the weights of `tiny`."""
    from raysys.presets import PRESETS, finetuning

    config = finetuning(PRESETS["smoke"](), "pick", "scratch").to_dict()
    config |= {"name": "tiny", "model": dataclasses.asdict(MODEL)}
    folder = tmp_path_factory.mktemp("run") / "step00000008"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "state.json").write_text(json.dumps({"step": 8, "score": 0.5}))
    save_file({name: tensor.contiguous() for name, tensor in tiny.state_dict().items()}, folder / "model.safetensors")
    return folder
