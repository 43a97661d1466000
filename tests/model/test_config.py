"""Defaults are the numbers of docs/model.md, and what follows from them is computed from every field."""

from dataclasses import asdict

import pytest
import torch

from model.config import BackboneConfig, EncoderConfig, LossConfig, MaskConfig, ModelConfig, QuantizerConfig
from model.encoder import WaveformEncoder


def test_defaults_of_the_model():
    assert asdict(ModelConfig()) == {
        "window_samples": 4096,
        "highpass_hz": 0.0,
        "encoder": {"width": 256, "num_layers": 2, "kernel": 3, "stride": 2},
        "backbone": {
            "width": 128,
            "num_layers": 3,
            "pool": (4, 4),
            "expand": 2,
            "num_heads": 4,
            "up_factor": 2.0,
            "conv_kernel": 4,
            "qkv_block": 4,
            "gate_cap": 15.0,
            "ffn_factor": 1.6,
            "dropout": 0.1,
            "direction_weights": "shared",
            "kernel": "auto",
        },
        "quantizer": {
            "kind": "gumbel",
            "num_groups": 2,
            "num_codes": 320,
            "code_dim": 128,
            "logits": "linear",
            "scale_logits": False,
            "gumbel_start": 2.0,
            "gumbel_end": 0.5,
            "ema_decay": 0.8,
            "commitment": 0.25,
            "revive_below": 0.1,
            "rotation_trick": False,
            "fsq_levels": (8, 8, 5),
        },
        "target_dim": 256,
    }


def test_defaults_of_mask_and_loss():
    assert asdict(MaskConfig()) == {"ratio": 0.65, "span_frames": 10, "mode": "exact"}
    assert asdict(LossConfig()) == {
        "temperature": 0.1,
        "temperature_mode": "fixed",
        "temperature_end": 0.1,
        "similarity": "cosine",
        "num_negatives": 100,
        "negatives": "row",
        "pool_frames": 2048,
        "queue_frames": 16384,
        "diversity_lambda": 0.1,
        "diversity": "linear",
        "frames": "masked",
    }


def test_frames_follow_stride_layers_and_every_pooling():
    """Numbers whose sums, products and powers all differ."""
    config = ModelConfig(
        window_samples=1620,
        encoder=EncoderConfig(stride=3, num_layers=3),
        backbone=BackboneConfig(pool=(2, 5), width=32),
    )
    assert (config.samples_per_frame, config.samples_per_coarse_frame, config.num_frames) == (27, 270, 60)


def test_hidden_channels_are_rounded_up_to_eights():
    assert [BackboneConfig().ffn_width(width) for width in (128, 256, 100, 5)] == [208, 416, 160, 8]
    assert BackboneConfig(ffn_factor=2.0).ffn_width(33) == 72


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ModelConfig(window_samples=4100), "not a multiple of 64 .* take 4096"),
        (lambda: ModelConfig(window_samples=20), "take 64"),
        (lambda: BackboneConfig(width=132), r"is 264, .* multiple of 16"),
        (lambda: BackboneConfig(width=16, num_heads=2, up_factor=1.25), "multiple of 8"),
        (lambda: BackboneConfig(dropout=1.0), "dropout=1.0"),
        (lambda: BackboneConfig(dropout=-0.1), "dropout=-0.1"),
        (lambda: QuantizerConfig(num_groups=0), "num_groups=0"),
        (lambda: QuantizerConfig(kind="hierarchical", logits="distance"), "logits='linear'"),
        (lambda: MaskConfig(ratio=0.0), "ratio=0.0"),
        (lambda: MaskConfig(ratio=1.0), "ratio=1.0"),
        (lambda: MaskConfig(span_frames=0), "span_frames=0"),
        (lambda: LossConfig(temperature=0.0), "temperature=0.0"),
        (lambda: LossConfig(num_negatives=0), "num_negatives=0"),
        (lambda: LossConfig(diversity_lambda=-0.1), "diversity_lambda=-0.1"),
    ],
)
def test_numbers_out_of_range_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_numbers_at_the_edge_are_accepted():
    BackboneConfig(dropout=0.0)
    QuantizerConfig(num_codes=2, num_groups=1)
    MaskConfig(span_frames=1)
    LossConfig(num_negatives=1, diversity_lambda=0.0)


@pytest.mark.parametrize(("kernel", "stride", "layers"), [(3, 2, 2), (4, 2, 2), (2, 2, 1), (10, 5, 1), (5, 3, 2)])
def test_a_frame_lies_where_its_convolutions_look(kernel, stride, layers):
    """The middle of the samples that a frame depends on, measured by the gradient of the real encoder."""
    config = EncoderConfig(width=8, kernel=kernel, stride=stride, num_layers=layers)
    x = torch.randn(1, 3, 300, requires_grad=True)
    frame = 300 // stride**layers // 2
    (grad,) = torch.autograd.grad(WaveformEncoder(config)(x)[0, frame].square().sum(), x)
    seen = (grad[0].abs().sum(0) > 0).nonzero().flatten().double()
    assert config.frame_center(frame) == (seen.min() + seen.max()) / 2
