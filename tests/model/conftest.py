"""A model small enough for a test: 64 frames of 32 channels, 2 x 16 codes."""

import pytest
import torch

from model.config import BackboneConfig, EncoderConfig, LossConfig, MaskConfig, ModelConfig, QuantizerConfig
from model.pretrain import PretrainModel


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def tiny():
    """Returns a function (quantizer fields, backbone fields) -> ModelConfig."""

    def build(dropout=0.1, direction_weights="shared", kernel="auto", **quantizer):
        codes = 320 if quantizer.get("kind") == "fsq" else 16
        return ModelConfig(
            window_samples=256,
            encoder=EncoderConfig(width=32),
            backbone=BackboneConfig(
                width=32, num_layers=1, num_heads=2, dropout=dropout, direction_weights=direction_weights, kernel=kernel
            ),
            quantizer=QuantizerConfig(**{"num_codes": codes, "code_dim": 16, **quantizer}),
            target_dim=32,
        )

    return build


@pytest.fixture
def pretrain(tiny):
    """Returns a function (loss fields, mask, quantizer fields) -> tiny PretrainModel."""

    def build(loss=None, mask=None, **fields):
        loss = LossConfig(**{"num_negatives": 20, **(loss or {})})
        return PretrainModel(tiny(**fields), mask or MaskConfig(span_frames=4), loss)

    return build
