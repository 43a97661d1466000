"""What all networks share that are fine-tuned. Shapes: B batch, C component, T samples, S frames, D channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.backbone import Backbone
from model.config import HeadConfig, MaskConfig, ModelConfig
from model.masking import span_mask
from model.preprocess import standardize


class Finetuned(nn.Module):
    """A backbone whose context is regularised in training as wav2vec 2.0 is (Baevski et al. 2020, appendix B).

    To start from pretraining: `network.backbone.load_state_dict(pretrained.backbone.state_dict())`.

    Args:
        model: configuration of the backbone.
        head: of what stands on top of it.
    """

    def __init__(self, model: ModelConfig, head: HeadConfig = HeadConfig()):
        super().__init__()
        self.model_config, self.head_config = model, head
        self.backbone = Backbone(model)
        if head.span_mask and head.span_frames >= model.num_frames:
            raise ValueError(
                f"head.span_frames={head.span_frames} must be below the {model.num_frames} frames of a window"
            )

    @property
    def window_samples(self) -> int:
        """Samples of the windows that it is trained on."""
        return self.model_config.window_samples

    def _padded(self, waveform: Tensor, num_valid: Tensor | None) -> Tensor:
        """Returns the standardised waveform with zeros up to a whole number of coarse frames."""
        x = standardize(waveform, num_valid, self.model_config.highpass_hz)
        return F.pad(x, (0, -x.shape[-1] % self.model_config.samples_per_coarse_frame))

    def _context(self, x: Tensor) -> Tensor:
        """Returns the context (B, S, D) of a padded waveform; in training some frames and some channels are hidden."""
        features, config = self.backbone.features(x), self.head_config
        if not self.training:
            return self.backbone.context(features)
        if config.channel_mask:
            kept = torch.rand(len(x), 1, features.shape[-1], device=x.device) >= config.channel_mask
            features = features * kept
        masked = None
        if config.span_mask:
            mask = MaskConfig(ratio=config.span_mask, span_frames=config.span_frames)
            masked = span_mask(torch.rand(len(x), 2 * features.shape[1] + 1, device=x.device), mask).frames
        return self.backbone.context(features, masked)


class PerSample(Finetuned):
    """Context frames, brought back to the sampling rate beside the waveform itself, and three convolutions.

    The context knows what arrives, the waveform knows when to the sample (25 frames against 100 samples a second).
    """

    CHANNELS = 1

    def __init__(self, model: ModelConfig, head: HeadConfig = HeadConfig()):
        super().__init__(model, head)
        components = 3 if head.waveform else 0
        self.head = nn.Sequential(
            nn.Conv1d(model.backbone.width + components, head.width, head.kernel, padding="same"),
            nn.GELU(),
            nn.Conv1d(head.width, head.width, head.kernel, padding="same"),
            nn.GELU(),
            nn.Conv1d(head.width, self.CHANNELS, 1),
        )
        self.dropout = nn.Dropout1d(head.dropout)

    def logits(self, waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Returns the logits (B, channels, T) behind the probabilities; T is free, padding happens inside."""
        x = self._padded(waveform, num_valid)
        context = self._at_samples(self._context(x).transpose(1, 2), x.shape[-1])
        seen = torch.cat([context, x.to(context.dtype)], dim=1) if self.head_config.waveform else context
        return self.head(self.dropout(seen))[..., : waveform.shape[-1]]

    def _at_samples(self, context: Tensor, num_samples: int) -> Tensor:
        """Returns context (B, D, S) at every sample (B, D, T): linear between the centres of its frames, constant beyond the last."""
        encoder = self.model_config.encoder
        first, step = encoder.frame_center(0), encoder.frame_center(1) - encoder.frame_center(0)
        place = ((torch.arange(num_samples, device=context.device) - first) / step).clamp(0, context.shape[-1] - 1)
        before = place.long()
        after = (before + 1).clamp_max(context.shape[-1] - 1)
        return torch.lerp(context[..., before], context[..., after], (place - before).to(context.dtype))


def every_sample(waveform: Tensor, num_valid: Tensor | None) -> Tensor:
    """Returns num_valid (B,), or T for every window where there is none."""
    return waveform.new_full((len(waveform),), waveform.shape[-1]) if num_valid is None else num_valid


def weighted_mean(loss: Tensor, weight: Tensor, keep: Tensor | None) -> Tensor:
    """Returns the mean of losses (B, T) by weight (B, T), of the samples to keep (B, T), 0-dim; 0 without any weight."""
    weight = weight if keep is None else weight * keep
    return (loss * weight).sum() / weight.sum().clamp_min(1)
