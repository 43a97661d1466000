"""Self-supervised pretraining: waveform to losses.

Shapes: B batch, T samples, S frames, M masked frames of a window, D target width, K negatives, G code groups, V codes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model import contrastive
from model.backbone import Backbone
from model.comparison import Comparison, MaskedFrames
from model.config import LossConfig, MaskConfig, ModelConfig
from model.draws import Draws, KeyedDraws
from model.masking import SpanMask, span_mask, take, take_aside
from model.preprocess import live_windows, standardize
from model.quantizers import build_quantizer
from model.quantizers.interface import Quantized, perplexity, used_fraction

TIE_MASK = MaskConfig(ratio=0.5, span_frames=10)
"""Of the fixed task of `top1_tie`, whatever mask and loss a run trains with."""


class Losses(NamedTuple):
    """What one step says. Only `total` carries gradient; scalars are 0-dim tensors on the device."""

    total: Tensor
    contrastive: Tensor
    """Mean InfoNCE of the masked frames in nats; log(K + 1) for guessing, 0 for a collapsed codebook too."""
    diversity: Tensor
    auxiliary: Tensor
    """The quantizer's own loss (commitment)."""
    accuracy: Tensor
    """Fraction of masked frames whose positive no negative beats; 1 for a collapsed codebook too."""
    perplexity: Tensor
    """(G,) of the mean soft distribution in training, of the hard codes in evaluation; 1 to V."""
    used_fraction: Tensor
    """Fraction of the G V codes that this batch used."""
    mask_ratio: Tensor
    """Fraction of frames really masked."""
    code_counts: Tensor
    """(G, V) frames that took each code; sum over batches and ranks before taking a perplexity."""
    temperature: Tensor
    """Of the contrastive loss, as used."""


class PretrainModel(nn.Module):
    """Contrastive prediction of the quantised features of masked frames (Baevski et al. 2020, wav2vec 2.0).

    One pass of the encoder gives both the targets, quantised, and the input of the backbone, masked. The weight of the
    diversity, like the numbers of the comparison, is a 0-dim tensor: searches that change it recompile nothing.
    """

    def __init__(self, model: ModelConfig, mask: MaskConfig, loss: LossConfig):
        super().__init__()
        self.model_config, self.mask_config, self.loss_config = model, mask, loss
        self.backbone = Backbone(model)
        self.head = nn.Linear(model.backbone.width, model.target_dim)
        self.quantizer = build_quantizer(model)
        self.comparison = Comparison(model.target_dim, loss, model.backbone.operators)
        self.progress = 0.0
        self.register_buffer("diversity_lambda", torch.tensor(loss.diversity_lambda), persistent=False)

    def set_schedule(self, progress: float):
        """Sets the annealed temperatures to their values at `progress` in [0, 1] of the full budget."""
        self.progress = progress
        self.quantizer.set_progress(progress)
        self.comparison.set_progress(progress)

    def compile_parts(self, backend: str = "inductor"):
        """Compiles, in place, what a training step spends its time on; the parts' borders are where shapes repeat."""
        self.backbone.compile_parts(backend)
        for name in ("_normalise", "_real", "_masked_frames", "_predict", "_objective"):
            setattr(self, name, torch.compile(getattr(self, name), dynamic=False, backend=backend))
        self.comparison.compile(dynamic=False, backend=backend)
        if self.model_config.quantizer.kind == "gumbel":
            self.quantizer.compile(dynamic=False, backend=backend)

    def _standardized(self, waveform: Tensor, num_valid: Tensor | None) -> Tensor:
        return standardize(waveform, num_valid, self.model_config.highpass_hz)

    def encode(self, waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Returns the context (B, S, width), nothing masked, of a waveform (B, 3, T) in any unit."""
        return self.backbone(self._standardized(waveform, num_valid))

    def features(self, waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Returns what a frozen model offers a reader, (B, S, encoder width + width): local features, then context."""
        local = self.backbone.features(self._standardized(waveform, num_valid))
        return torch.cat([local, self.backbone.context(local)], dim=-1)

    @torch.no_grad()
    def codes(self, waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Returns the most probable codes (B, S, G) int64 of a waveform (B, 3, T); changes no state."""
        features = self.backbone.features(self._standardized(waveform, num_valid))
        training = self.quantizer.training
        self.quantizer.eval()
        quantized = self.quantizer(features, features.new_ones(features.shape[:2]), Draws(features.device))
        self.quantizer.train(training)
        return quantized.codes

    def forward(
        self,
        waveform: Tensor,
        num_valid: Tensor | None = None,
        window_weight: Tensor | None = None,
        generator: torch.Generator | None = None,
        window_id: Tensor | None = None,
    ) -> Losses:
        """Returns the losses of a batch.

        Args:
            waveform: (B, 3, T), in any unit; standardised here.
            num_valid: (B,) samples before the padding; frames in the padding count for nothing. None: all are valid.
            window_weight: (B,) weight of each window in every mean; None: 1. A window without any signal weighs 0.
            generator: For masks, negatives and Gumbel noise; on the waveform's device. None: PyTorch's default.
            window_id: (B,) integers. With them masks and negatives depend on the window alone and not on batch,
                rank or step: for validation.
        """
        draws = Draws(waveform.device, generator) if window_id is None else KeyedDraws(window_id)
        waveform, live = self._normalise(waveform, num_valid)
        window_weight = live if window_weight is None else live * window_weight
        frames, quantized, ratio = self._masked(waveform, num_valid, window_weight, draws, self.mask_config)
        # Softmax statistics in bfloat16 are too coarse for a temperature of 0.1.
        with torch.autocast(waveform.device.type, enabled=False):
            probs = quantized.mean_probs
            # Ranks have as many batches as each other in training, but not in validation.
            mean_probs = contrastive.global_mean(probs) if self.training else lambda: probs
            remembered = self.comparison.recall(len(waveform), draws)
            compared = self.comparison(frames, draws, remembered)  # the ranks' probabilities travel meanwhile
            if self.training and self.comparison.queue is not None:
                self.comparison.remember(frames, draws)
            return self._objective(frames.valid, compared, quantized, ratio, window_weight, mean_probs())

    @torch.no_grad()
    def top1_tie(self, waveform: Tensor, window_id: Tensor, num_valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns the summed tie-aware accuracy of each window (B,) and its number of frames (B,).

        The task is fixed (half of the frames masked, 100 negatives of the same window, hard codes, duplicates kept), so that
        runs with different masks and losses compare: sum both over all windows and ranks and divide.

        Raises:
            ValueError: the model is in training mode, where codes are samples.
        """
        if self.training:
            raise ValueError("top1_tie needs hard codes and no dropout: call model.eval() first")
        draws = KeyedDraws(window_id)
        frames, _, _ = self._masked(self._standardized(waveform, num_valid), num_valid, None, draws, TIE_MASK)
        with torch.autocast(waveform.device.type, enabled=False):
            score = self.comparison.top1_tie(frames, draws)
            return (score * frames.valid).sum(dim=1), frames.valid.sum(dim=1)

    def _masked(
        self, waveform, num_valid, window_weight, draws: Draws, mask: MaskConfig
    ) -> tuple[MaskedFrames, Quantized, Tensor]:
        """Returns contexts and targets of masked frames, what the quantizer said, and the fraction masked, for a standardised waveform."""
        features = self.backbone.features(waveform)
        batch, num_frames, _ = features.shape
        spans = span_mask(draws.uniform(batch, 2 * num_frames + 1), mask)
        real, count, ratio = self._real(spans.frames, num_valid, window_weight)
        whole = self.loss_config.frames == "all" or self.quantizer.needs_all_frames
        if whole:
            counted, quantizable = real if self.loss_config.frames == "all" else real & spans.frames, features
        else:
            features, quantizable = self._masked_frames(features, spans)
            counted = torch.arange(quantizable.shape[1], device=features.device) < count[:, None]
        hidden = self._predict(self.backbone.context(features, spans.frames), spans)
        weight = counted.float() if window_weight is None else counted * window_weight[:, None]
        quantized = self.quantizer(quantizable, weight, draws)
        targets, codes = quantized.targets, quantized.codes
        if whole:
            targets, codes = take(targets, spans), take(codes, spans)
        ids = contrastive.code_ids(codes, self.model_config.quantizer.num_codes)
        return MaskedFrames(hidden, targets, ids, count), quantized, ratio

    def _normalise(self, waveform: Tensor, num_valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the standardised waveform (B, 3, T) and a weight for each window (B,), 0 where there is no signal."""
        waveform = self._standardized(waveform, num_valid)
        return waveform, live_windows(waveform).float()

    def _real(
        self, frames: Tensor, num_valid: Tensor | None, window_weight: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns which frames (B, S) are no padding, how many of those each window has masked (B,), and the fraction masked of all."""
        real = torch.ones_like(frames)
        if num_valid is not None:
            start = torch.arange(real.shape[1], device=real.device) * self.model_config.samples_per_frame
            real = start < num_valid[:, None]
        count = (frames & real).sum(dim=1)
        if window_weight is not None:
            count = count * (window_weight > 0)  # a window that counts for nothing is nobody's negative either
        return real, count, frames.float().mean()

    @staticmethod
    def _masked_frames(x: Tensor, spans: SpanMask) -> tuple[Tensor, Tensor]:
        return take_aside(x, spans)

    def _predict(self, context: Tensor, spans: SpanMask) -> Tensor:
        """Returns the predicted targets (B, M, D) of the masked frames."""
        return self.head(take(context, spans))

    def _objective(
        self,
        valid: Tensor,
        compared: tuple[Tensor, Tensor],
        quantized: Quantized,
        ratio: Tensor,
        window_weight: Tensor,
        probs: Tensor,
    ) -> Losses:
        """Returns the losses, of what the comparison found and of the mean probabilities (G, V) of the codes over all ranks."""
        each, right = compared
        weight = valid * window_weight[:, None].to(each.dtype)
        weight = weight / weight.sum().clamp_min(1)
        loss, accuracy = (each * weight).sum(), (right * weight).sum()
        diversity = contrastive.diversity_loss(probs, self.loss_config.diversity)
        counts = quantized.counts
        seen = probs if self.training else counts / counts.sum(dim=-1, keepdim=True).clamp_min(1)
        return Losses(
            total=loss + self.diversity_lambda * diversity + quantized.aux_loss,
            contrastive=loss.detach(),
            diversity=diversity.detach(),
            auxiliary=quantized.aux_loss.detach(),
            accuracy=accuracy,
            perplexity=perplexity(seen.detach()),
            used_fraction=used_fraction(counts),
            mask_ratio=ratio,
            code_counts=counts,
            temperature=self.comparison.current_temperature().detach(),
        )
