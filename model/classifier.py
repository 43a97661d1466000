"""Classes of whole records on top of the backbone. Shapes: B batch, C component, T samples, S frames, D channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import HeadConfig, ModelConfig
from model.finetuned import Finetuned, every_sample
from model.labels import Labels


class SequenceClassifier(Finetuned):
    """The class of a record (foreshock or aftershock, earthquake or noise): its context's mean and maximum, and a linear map."""

    def __init__(self, model: ModelConfig, head: HeadConfig = HeadConfig()):
        super().__init__(model, head)
        self.head = nn.Sequential(nn.Dropout(head.dropout), nn.Linear(2 * model.backbone.width, len(head.classes)))

    def forward(self, waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Returns probabilities (B, classes) in the order of `head.classes`, for waveforms (B, 3, T) in any unit."""
        return self.logits(waveform, num_valid).float().softmax(dim=1)

    def logits(self, waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Returns the logits (B, classes); frames in the padding have no part in them."""
        context = self._context(self._padded(waveform, num_valid))
        start = torch.arange(context.shape[1], device=context.device) * self.model_config.samples_per_frame
        real = (start < every_sample(waveform, num_valid)[:, None])[..., None]
        mean = (context * real).sum(dim=1) / real.sum(dim=1).clamp_min(1)
        highest = torch.where(real, context, -torch.inf).amax(dim=1)
        return self.head(torch.cat([mean, highest.clamp_min(torch.finfo(highest.dtype).min)], dim=1))

    def loss(self, waveform: Tensor, num_valid: Tensor | None, labels: Labels, keep: Tensor | None = None) -> Tensor:
        """Returns the cross-entropy in nats, 0-dim: the mean over the windows whose class is known.

        Args: those of `PhasePicker.loss`; `keep` has no part in it.
        """
        each = F.cross_entropy(self.logits(waveform, num_valid).float(), labels.group.clamp_min(0), reduction="none")
        known = (labels.group >= 0).float()
        return (each * known).sum() / known.sum().clamp_min(1)
