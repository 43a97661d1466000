"""Floating-point operations of a training step, counted from the configuration, and the peak of known GPUs.

Shapes: S frames, D width of a level, I inner width of the mLSTM, H heads, E = I / H, M masked frames of a window.
"""

import torch

from model.config import BackboneConfig, LossConfig, MaskConfig, ModelConfig
from raysys.config import RunConfig

PEAK_BF16 = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA L4": 121e12,
}
"""Dense bfloat16 operations a second by the data sheets, by the name that PyTorch gives the GPU."""
DIRECTIONS = 2


def training_flops(config: RunConfig) -> float:
    """Returns the operations of forward and backward pass (twice the forward) for one window."""
    return 3 * sum(forward_flops(config.model, config.mask, config.loss).values())


def forward_flops(model: ModelConfig, mask: MaskConfig, loss: LossConfig) -> dict[str, float]:
    """Returns the operations of the forward pass for one window, by part; a multiply-add is two.

    What the mathematics needs is counted and not what a kernel does: block-diagonal maps by their blocks, the mLSTM
    cell in its recurrent form. Norms, activations and softmaxes count nothing.
    """
    masked = round(mask.ratio * model.num_frames)
    quantizer, features = model.quantizer, model.encoder.width
    quantized = model.num_frames if loss.frames == "all" else masked
    codes, targets = quantizer.num_groups * quantizer.num_codes, quantizer.num_groups * quantizer.code_dim
    return {
        "encoder": _encoder(model),
        "project": 2 * model.num_frames * features * model.backbone.width,
        "unet": _unet(model.backbone, model.num_frames),
        "head": 2 * masked * model.backbone.width * model.target_dim,
        "quantizer": 2 * quantized * (features * codes + targets * model.target_dim),
        "similarities": 2 * masked * masked * model.target_dim,
    }


def peak_flops(config: RunConfig, device: torch.device) -> float | None:
    """Returns the peak of the device in operations a second, None where it is not known or the run is not in bfloat16."""
    if device.type != "cuda" or config.train.precision == "fp32":
        return None
    return PEAK_BF16.get(torch.cuda.get_device_name(device))


def _encoder(model: ModelConfig) -> float:
    total, samples, width = 0.0, model.window_samples, 3
    for _ in range(model.encoder.num_layers):
        samples //= model.encoder.stride
        total += 2 * samples * model.encoder.kernel * width * model.encoder.width
        width = model.encoder.width
    return total


def _unet(config: BackboneConfig, frames: int) -> float:
    total, width, levels = 0.0, config.width, len(config.pool)
    for level in range(levels + 1):
        stages = 1 if level == levels else 2
        total += stages * config.num_layers * frames * _layer(config, width)
        if level < levels:
            factor, wider = config.pool[level], width * config.expand
            frames //= factor
            total += 2 * (2 * frames * factor * width * wider)
            width = wider
    return total


def _layer(config: BackboneConfig, width: int) -> float:
    """For one frame."""
    inner = round(width * config.up_factor)
    head = inner // config.num_heads
    maps = 2 * width * 2 * inner + 2 * inner * width + 2 * inner * config.qkv_block
    one_way = 2 * inner * config.conv_kernel + 2 * 2 * inner * config.qkv_block + 2 * 3 * inner * 2 * config.num_heads
    cell = config.num_heads * 4 * head * head
    return maps + DIRECTIONS * (one_way + cell) + 4 * width * config.ffn_width(width)
