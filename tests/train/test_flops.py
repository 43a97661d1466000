"""Operations counted: against PyTorch's counter, in numbers, and over the peak of known GPUs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.config import BackboneConfig, LossConfig, MaskConfig, ModelConfig
from model.pretrain import PretrainModel
from raysys.config import RunConfig
from raysys.train.flops import forward_flops, peak_flops, training_flops


def test_counted_operations_are_those_that_pytorch_counts():
    """In parts whose kernels do what the mathematics says; dense blocks make the maps of the mLSTM such a part too."""
    backbone = BackboneConfig(width=32, num_layers=1, num_heads=1, qkv_block=64, pool=(4,), expand=1, dropout=0.0)
    config = ModelConfig(window_samples=512, backbone=backbone)
    mask = MaskConfig(ratio=0.625)  # 80 of 128 frames, a multiple of 8: none are padded
    model = PretrainModel(config, mask, LossConfig()).eval()
    counted = forward_flops(config, mask, LossConfig())
    with FlopCounterMode(display=False, depth=4) as counter, torch.no_grad():
        model(torch.randn(1, 3, 512), window_id=torch.zeros(1, dtype=torch.long))
    seen = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    assert counted["encoder"] == seen["PretrainModel.backbone.encoder"]
    assert counted["project"] == seen["PretrainModel.backbone.project"]
    assert counted["head"] == seen["PretrainModel.head"]
    assert counted["quantizer"] == pytest.approx(seen["PretrainModel.quantizer"], rel=0.01)
    assert counted["unet"] == pytest.approx(seen["PretrainModel.backbone.unet"], rel=0.11)


OTHER = {
    "loss.frames": "all",
    "model.backbone.width": 96,
    "model.backbone.num_layers": 2,
    "model.backbone.pool": [2, 8],
    "model.backbone.expand": 3,
    "model.backbone.up_factor": 1.5,
    "model.backbone.num_heads": 6,
    "model.backbone.conv_kernel": 5,
}


@pytest.mark.parametrize(
    ("changes", "project", "unet", "head", "quantizer"),
    [
        ({}, 67_108_864, 7_322_730_496, 43_646_976, 305_528_832),
        (OTHER, 50_331_648, 6_554_148_864, 32_735_232, 469_762_048),
    ],
)
def test_operations_of_the_large_models_in_numbers(changes, project, unet, head, quantizer):
    config = RunConfig().override(changes)
    parts = {
        "encoder": 2 * 3 * 256 * (2048 * 3 + 1024 * 256),
        "project": project,
        "unet": unet,
        "head": head,
        "quantizer": quantizer,
        "similarities": 2 * 666 * 666 * 256,
    }
    assert forward_flops(config.model, config.mask, config.loss) == parts
    assert training_flops(config) == 3 * sum(parts.values())


@pytest.mark.parametrize(
    ("name", "device", "precision", "peak"),
    [
        ("NVIDIA H200", "cuda", "auto", 989e12),
        ("NVIDIA A100-SXM4-80GB", "cuda", "bf16", 312e12),
        ("NVIDIA L4", "cuda", "bf16", 121e12),
        ("NVIDIA H200", "cuda", "fp32", None),
        ("NVIDIA T4", "cuda", "auto", None),
        ("NVIDIA H200", "cpu", "bf16", None),
    ],
)
def test_the_peak_is_that_of_the_gpu_in_bf16(monkeypatch, name, device, precision, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_flops(RunConfig().override({"train.precision": precision}), torch.device(device)) == peak
