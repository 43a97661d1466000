"""What a dry run says: the shapes and parameters of the model that would be trained."""

import re

import pytest
import torch

from model.pretrain import PretrainModel
from raysys.presets import PRESETS
from raysys.train.describe import describe


def test_shapes_are_those_of_the_model_and_parts_add_up():
    config = PRESETS["smoke"]().override(
        {"model.backbone.pool": [2, 8], "model.backbone.expand": 3, "model.backbone.num_layers": 2}
    )
    model, shapes = PretrainModel(config.model, config.mask, config.loss), {}
    unet = model.backbone.unet
    for level, stage in enumerate([*unet.down, unet.bottom]):
        stage[0].register_forward_hook(lambda _, inputs, __, level=level: shapes.update({level: inputs[0].shape[1:]}))
    model(torch.randn(2, 3, config.model.window_samples))
    text = describe(config)
    found = re.findall(r"level (\d): (\d+) x (\d+), 2 layers a stage", text)
    assert [tuple(map(int, each)) for each in found] == [(level, *shape) for level, shape in shapes.items()]
    assert len(shapes) == 3
    assert "waveform 3 x 512 -> encoder 128 x 16" in text
    counts = {name: int(n.replace(",", "")) for name, n in re.findall(r"  (\w+) +([\d,]+)$", text, flags=re.M)}
    assert counts.pop("total") == sum(p.numel() for p in model.parameters())
    parts = {"head": model.head, "quantizer": model.quantizer, **dict(model.backbone.named_children())}
    assert counts == {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


@pytest.mark.parametrize(("batch", "layers"), [(64, 3), (128, 6)])
def test_memory_is_that_of_all_stages_of_a_batch(batch, layers):
    text = describe(PRESETS["base"]().override({"train.batch_size": batch, "model.backbone.num_layers": layers}))
    [total] = re.findall(r"total +([\d,]+)", text)
    assert f"gradients and AdamW: {4 * 4 * int(total.replace(',', '')) / 2**30:.2f} GiB" in text
    numbers = 2 * 1024 * 128 + 2 * 256 * 256 + 64 * 512
    activations = batch * (layers * numbers * 40 * 2 + 12 * 666**2) / 2**30
    assert f"(estimate): {activations:.1f} GiB" in text
