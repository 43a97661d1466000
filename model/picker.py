"""Phase picking on top of the backbone. Shapes: B batch, C component, T samples, S frames, D channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbone import Backbone
from model.config import HeadConfig, ModelConfig
from model.preprocess import standardize

LABELS = "PSN"
"""Order of the output channels: P arrival, S arrival, noise."""


class PhasePicker(nn.Module):
    """Context frames, brought back to the sampling rate beside the waveform itself, and three convolutions.

    The context knows what arrives, the waveform knows when to the sample (25 frames against 100 samples a second). To
    start from pretraining: `picker.backbone.load_state_dict(pretrained.backbone.state_dict())`.

    Args:
        model: Configuration of the backbone.
        head: Of what stands on top of it.
    """

    def __init__(self, model: ModelConfig, head: HeadConfig = HeadConfig()):
        super().__init__()
        self.model_config, self.head_config = model, head
        width, kernel = head.width, head.kernel
        self.backbone = Backbone(model)
        self.head = nn.Sequential(
            nn.Conv1d(model.backbone.width + 3, width, kernel, padding="same"),
            nn.GELU(),
            nn.Conv1d(width, width, kernel, padding="same"),
            nn.GELU(),
            nn.Conv1d(width, len(LABELS), 1),
        )

    def forward(self, waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Returns probabilities (B, 3, T) of P, S and noise, summing to 1, for waveforms (B, 3, T) in any unit."""
        return self.logits(waveform, num_valid).float().softmax(dim=1)

    def logits(self, waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Returns the logits (B, 3, T) behind the probabilities; T is free, padding happens inside."""
        x = standardize(waveform, num_valid)
        num_samples = x.shape[-1]
        x = F.pad(x, (0, -num_samples % self.model_config.samples_per_coarse_frame))
        context = self.backbone(x).transpose(1, 2)
        context = self._at_samples(context, x.shape[-1])
        return self.head(torch.cat([context, x.to(context.dtype)], dim=1))[..., :num_samples]

    def _at_samples(self, context: Tensor, num_samples: int) -> Tensor:
        """Returns context (B, D, S) at every sample (B, D, T): linear between the centres of its frames, constant beyond the last."""
        encoder = self.model_config.encoder
        first, step = encoder.frame_center(0), encoder.frame_center(1) - encoder.frame_center(0)
        place = ((torch.arange(num_samples, device=context.device) - first) / step).clamp(0, context.shape[-1] - 1)
        before = place.long()
        after = (before + 1).clamp_max(context.shape[-1] - 1)
        return torch.lerp(context[..., before], context[..., after], (place - before).to(context.dtype))
