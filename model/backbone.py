"""Waveform to context: what pretraining, picking and export share. Shapes: B batch, C component, T samples, S frames."""

import torch
from torch import Tensor, nn

from model.config import ModelConfig
from model.encoder import WaveformEncoder
from model.unet import UNet


class Backbone(nn.Module):
    """Encoder, projection, masking and U-Net; every waveform it is given is already standardised."""

    def __init__(self, model: ModelConfig):
        super().__init__()
        self.model_config = config = model
        self.encoder = WaveformEncoder(config.encoder, backend=config.backbone.operators)
        self.project = nn.Linear(config.encoder.width, config.backbone.width)
        self.mask_embedding = nn.Parameter(torch.empty(config.backbone.width).uniform_())
        self.unet = UNet(config.backbone)

    def forward(self, waveform: Tensor) -> Tensor:
        """Returns the context (B, S, D), nothing masked, of a standardised waveform (B, C, T) of a length as of `features`."""
        return self.context(self.features(waveform))

    def features(self, waveform: Tensor) -> Tensor:
        """Returns the encoder's features (B, S, W) of a standardised waveform (B, C, T).

        Raises:
            ValueError: T is not a multiple of the samples that one frame of the coarsest level spans.
        """
        if waveform.shape[-1] % self.model_config.samples_per_coarse_frame:
            raise ValueError(
                f"a waveform of {waveform.shape[-1]} samples is not a multiple of "
                f"{self.model_config.samples_per_coarse_frame}: pad it with zeros"
            )
        return self.encoder(waveform)

    def context(self, features: Tensor, masked: Tensor | None = None) -> Tensor:
        """Returns the context (B, S, D) of encoder features (B, S, W), the frames of `masked` (B, S) hidden."""
        return self.unet(self._enter(features, masked))

    def compile_parts(self, backend: str = "inductor") -> None:
        """Compiles, in place, everything that a training step runs here."""
        self.encoder.compile(dynamic=False, backend=backend)
        self._enter = torch.compile(self._enter, dynamic=False, backend=backend)
        self.unet.compile_parts(backend)

    def _enter(self, features: Tensor, masked: Tensor | None) -> Tensor:
        """Returns the U-Net's input (B, S, D)."""
        x = self.project(features)
        if masked is not None:
            x = torch.where(masked[..., None], self.mask_embedding.to(x.dtype), x)
        return x
