"""The training step under DistributedDataParallel."""

import torch
import torch.distributed as dist
from torch._dynamo.utils import counters

from model.pretrain import PretrainModel
from raysys.presets import PRESETS
from raysys.train.step import data_parallel


def test_data_parallel_compiles_the_programs_of_one_worker(tmp_path):
    """Also where gradients fill several buckets: then Dynamo would by itself cut programs in two at their borders."""
    config = PRESETS["base"]().override({"model.window_samples": 1024})
    waveform = torch.randn(2, 3, 1024)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        programs = []
        for world in (1, 2):
            torch._dynamo.reset()
            counters.clear()
            model = PretrainModel(config.model, config.mask, config.loss)
            model.compile_parts(backend="aot_eager")
            wrapped = data_parallel(model, world, config)
            wrapped(waveform).total.backward()
            programs.append(counters["aot_autograd"]["ok"])
    finally:
        dist.destroy_process_group()
    assert programs[0] == programs[1]
