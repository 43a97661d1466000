"""What is compiled without a GPU (tests/model/ops/launches.py) is what a GPU launches."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from model.pretrain import PretrainModel
from raysys.presets import PRESETS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]
sys.path.append(str(Path(__file__).parents[1] / "model" / "ops"))


@pytest.mark.parametrize(
    ("scene", "preset", "backbone"),
    [("base", "base", {}), ("separate", "base", {"direction_weights": "separate"}), ("large", "large", {})],
)
def test_a_step_launches_what_was_noted_without_a_gpu(scene, preset, backbone, monkeypatch):
    import launches
    from triton.runtime.jit import JITFunction

    run, seen = JITFunction.run, set()

    def noting(kernel, *args, grid, warmup, **settings):
        if kernel.fn.__module__.startswith("model.ops"):
            placed = [launches._Placed(x.dtype, x.data_ptr()) if isinstance(x, torch.Tensor) else x for x in args]
            seen.add(launches._noted(kernel, placed, settings, grid).key)
        return run(kernel, *args, grid=grid, warmup=warmup, **settings)

    monkeypatch.setattr(JITFunction, "run", noting)
    config = PRESETS[preset]()
    backbone = dataclasses.replace(config.model.backbone, num_layers=1, **backbone)
    network = PretrainModel(dataclasses.replace(config.model, backbone=backbone), config.mask, config.loss).cuda()
    waveform = torch.randn(config.train.batch_size, 3, config.model.window_samples, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        losses = network(waveform)
    losses.total.backward()
    monkeypatch.undo()
    room = torch.cuda.get_device_properties(0).shared_memory_per_block_optin
    noted = {launch.key for launch in launches.launches(scene, room) if not launch.name.startswith("adamw/")}
    assert seen == noted
