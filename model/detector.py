"""Detection of earthquakes on top of the backbone. Shapes: B batch, C component, T samples."""

import torch.nn.functional as F
from torch import Tensor

from model.finetuned import PerSample, every_sample, weighted_mean
from model.labels import Labels, event_targets


class EventDetector(PerSample):
    """The probability that a sample lies within the waves of an earthquake (as in Mousavi et al. 2020, EQTransformer)."""

    def forward(self, waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Returns probabilities (B, 1, T) for waveforms (B, 3, T) in any unit."""
        return self.logits(waveform, num_valid).float().sigmoid()

    def loss(self, waveform: Tensor, num_valid: Tensor | None, labels: Labels, keep: Tensor | None = None) -> Tensor:
        """Returns the binary cross-entropy in nats, 0-dim: the mean over all samples with a label.

        Args: those of `PhasePicker.loss`.
        """
        logits = self.logits(waveform, num_valid).float()
        targets, weight = event_targets(labels, every_sample(waveform, num_valid), waveform.shape[-1])
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return weighted_mean(loss[:, 0], weight, keep)
