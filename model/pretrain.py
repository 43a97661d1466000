"""Self-supervised pretraining: waveform to losses.

Shapes: B batch, T samples, S frames, M masked frames of a window, D target width, K negatives, G code groups, V codes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model import contrastive
from model.backbone import Backbone
from model.config import LossConfig, MaskConfig, ModelConfig
from model.contrastive import Negatives
from model.draws import Draws, KeyedDraws
from model.masking import SpanMask, span_mask, take, take_aside
from model.ops.contrast import contrast, fits
from model.preprocess import live_windows, standardize
from model.quantizer import (
    Quantized,
    build_quantizer,
    cosine_schedule,
    perplexity,
    set_gumbel_temperature,
    used_fraction,
)

TIE_MASK = MaskConfig(ratio=0.5, span_frames=10)
TIE_NEGATIVES = 100
"""The fixed task of `top1_tie`, whatever mask and loss a run trains with."""


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


class Masked(NamedTuple):
    """The masked frames of a batch: contexts beside their targets."""

    context: Tensor
    """(B, M, D)"""
    targets: Tensor
    """(B, M, D)"""
    ids: Tensor | None
    """(B, M) one integer a code, None where targets are continuous."""
    count: Tensor
    """(B,) masked frames before the padding: the first ones of the M."""
    quantized: Quantized
    ratio: Tensor

    @property
    def valid(self) -> Tensor:
        """(B, M) bool: frames that count. A frame alone in its window has no negatives and does not."""
        position = torch.arange(self.context.shape[1], device=self.count.device)
        return (position < self.count[:, None]) & (self.count[:, None] > 1)


class TargetQueue(nn.Module):
    """A memory bank of past targets (He et al. 2020, MoCo): first in, first out, without gradient."""

    def __init__(self, num_frames: int, width: int):
        super().__init__()
        self.register_buffer("targets", torch.randn(num_frames, width))
        self.register_buffer("ids", torch.full((num_frames,), -1))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, targets: Tensor, ids: Tensor | None):
        """Replaces the oldest entries by targets (P, D) with code ids (P,)."""
        place = (self.next + torch.arange(len(targets), device=targets.device)) % len(self.targets)
        self.targets.index_copy_(0, place, targets.to(self.targets.dtype))
        if ids is not None:
            self.ids.index_copy_(0, place, ids)
        self.next.copy_((self.next + len(targets)) % len(self.targets))


class PretrainModel(nn.Module):
    """Contrastive prediction of the quantised features of masked frames (Baevski et al. 2020, wav2vec 2.0).

    One pass of the encoder gives both the targets, quantised, and the input of the backbone, masked. Temperature,
    number of negatives (at most the configured one), weight of the diversity and Gumbel temperature are 0-dim tensors:
    schedules and searches that change them recompile nothing.
    """

    def __init__(self, model: ModelConfig, mask: MaskConfig, loss: LossConfig):
        super().__init__()
        self.model_config, self.mask_config, self.loss_config = model, mask, loss
        self.backbone = Backbone(model)
        self.head = nn.Linear(model.backbone.width, model.target_dim)
        self.quantizer = build_quantizer(model)
        self.queue = TargetQueue(loss.queue_frames, model.target_dim) if loss.negatives == "queue" else None
        if loss.temperature_mode == "learned":
            self.log_temperature = nn.Parameter(torch.tensor(loss.temperature).log())
        for name, value in (
            ("temperature", loss.temperature),
            ("num_negatives", loss.num_negatives),
            ("diversity_lambda", loss.diversity_lambda),
        ):
            self.register_buffer(name, torch.tensor(value), persistent=False)

    def set_schedule(self, progress: float):
        """Sets the annealed temperatures to their values at `progress` in [0, 1] of the full budget."""
        set_gumbel_temperature(self.quantizer, progress)
        loss = self.loss_config
        if loss.temperature_mode == "annealed":
            self.temperature.fill_(cosine_schedule(loss.temperature, loss.temperature_end, progress))

    def compile_parts(self, backend: str = "inductor"):
        """Compiles, in place, what a training step spends its time on; the parts' borders are where shapes repeat."""
        self.backbone.compile_parts(backend)
        for name in ("_normalise", "_real", "_masked_frames", "_predict", "_compare", "_objective"):
            setattr(self, name, torch.compile(getattr(self, name), dynamic=False, backend=backend))
        if self.model_config.quantizer.kind == "gumbel":
            self.quantizer.compile(dynamic=False, backend=backend)

    def encode(self, waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Returns the context (B, S, width), nothing masked, of a waveform (B, 3, T) in any unit."""
        return self.backbone(standardize(waveform, num_valid))

    def features(self, waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Returns what a frozen model offers a reader, (B, S, encoder width + width): local features, then context."""
        local = self.backbone.encoder(standardize(waveform, num_valid))
        return torch.cat([local, self.backbone.context(local)], dim=-1)

    @torch.no_grad()
    def codes(self, waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Returns the most probable codes (B, S, G) int64 of a waveform (B, 3, T); changes no state."""
        features = self.backbone.encoder(standardize(waveform, num_valid))
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
        masked = self._masked(waveform, num_valid, window_weight, draws, self.mask_config)
        # Softmax statistics in bfloat16 are too coarse for a temperature of 0.1.
        with torch.autocast(waveform.device.type, enabled=False):
            probs = masked.quantized.mean_probs
            # Ranks have as many batches as each other in training, but not in validation.
            mean_probs = contrastive.global_mean(probs) if self.training else lambda: probs
            compared = self._compare(masked, draws)  # the ranks' probabilities travel meanwhile
            return self._objective(masked, compared, window_weight, mean_probs())

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
        masked = self._masked(standardize(waveform, num_valid), num_valid, None, draws, TIE_MASK)
        with torch.autocast(waveform.device.type, enabled=False):
            context, targets, positive = self._scored(masked)
            uniform = draws.uniform(*context.shape[:2], TIE_NEGATIVES)
            weights = contrastive.drawn_weights(uniform, masked.count, uniform.new_tensor(TIE_NEGATIVES))
            negatives = Negatives(self._scores(context, targets), weights)
            score = contrastive.top1_tie(positive, negatives, contrastive.same_code(masked.ids, masked.ids))
            return (score * masked.valid).sum(dim=1), masked.valid.sum(dim=1)

    def _masked(self, waveform, num_valid, window_weight, draws: Draws, mask: MaskConfig) -> Masked:
        """Encodes a standardised waveform once, masks, and gathers contexts and quantised targets of masked frames."""
        features = self.backbone.encoder(waveform)
        batch, num_frames, _ = features.shape
        spans = span_mask(draws.uniform(batch, 2 * num_frames + 1), mask)
        real, count, ratio = self._real(spans.frames, num_valid)
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
        return Masked(hidden, targets, ids, count, quantized, ratio)

    @staticmethod
    def _normalise(waveform: Tensor, num_valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the standardised waveform (B, 3, T) and a weight for each window (B,), 0 where there is no signal."""
        waveform = standardize(waveform, num_valid)
        return waveform, live_windows(waveform).float()

    def _real(self, frames: Tensor, num_valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns which frames (B, S) are no padding, how many of those each window has masked (B,), and the fraction masked of all."""
        real = torch.ones_like(frames)
        if num_valid is not None:
            start = torch.arange(real.shape[1], device=real.device) * self.model_config.samples_per_frame
            real = start < num_valid[:, None]
        return real, (frames & real).sum(dim=1), frames.float().mean()

    @staticmethod
    def _masked_frames(x: Tensor, spans: SpanMask) -> tuple[Tensor, Tensor]:
        return take_aside(x, spans)

    def _predict(self, context: Tensor, spans: SpanMask) -> Tensor:
        """Returns the predicted targets (B, M, D) of the masked frames."""
        return self.head(take(context, spans))

    def _objective(
        self, masked: Masked, compared: tuple[Tensor, Tensor], window_weight: Tensor, probs: Tensor
    ) -> Losses:
        """Returns the losses, of what `_compare` found and of the mean probabilities (G, V) of the codes over all ranks."""
        each, right = compared
        weight = masked.valid * window_weight[:, None].to(each.dtype)
        weight = weight / weight.sum().clamp_min(1)
        loss, accuracy = (each * weight).sum(), (right * weight).sum()
        quantized = masked.quantized
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
            mask_ratio=masked.ratio,
            code_counts=counts,
            temperature=self._temperature().detach(),
        )

    def _compare(self, masked: Masked, draws: Draws) -> tuple[Tensor, Tensor]:
        """Returns InfoNCE of every masked frame (B, M), and whether no negative beats its positive."""
        loss = self.loss_config
        if loss.negatives == "row" and loss.similarity != "l2" and self._by_kernels(masked):
            words = contrastive.drawn_words(self._uniform(masked, draws), masked.count, self.num_negatives)
            cosine = loss.similarity == "cosine"
            pair = (masked.context, masked.targets, masked.ids)
            return contrast(*pair, words, self._temperature(), cosine=cosine)
        context, targets, positive = self._scored(masked)
        if loss.negatives in ("row", "expected") and loss.similarity != "l2":
            weights = self._window_weights(masked, draws, self.num_negatives)
            return contrastive.WindowContrast.apply(
                context, targets, self._temperature(), weights, masked.context.dtype
            )
        return contrastive.info_nce(positive, *self._negatives(context, targets, masked, draws))

    def _by_kernels(self, masked: Masked) -> bool:
        """Returns whether the kernels of `contrast` do this comparison."""
        few = self.loss_config.num_negatives <= contrastive.MOST_COUNTED
        wanted = self.model_config.backbone.operators == "auto"
        return wanted and few and masked.ids is not None and masked.context.is_cuda and fits(masked.context)

    def _uniform(self, masked: Masked, draws: Draws) -> Tensor:
        """Returns the random numbers (B, M, K_max) that draw the negatives within windows."""
        return draws.uniform(*masked.context.shape[:2], self.loss_config.num_negatives)

    def _temperature(self) -> Tensor:
        if self.loss_config.temperature_mode == "learned":
            # Below 0.02 the loss only sharpens what it already knows, above 1 it hardly sees the similarity.
            return self.log_temperature.exp().clamp(0.02, 1.0)
        return self.temperature

    def _scored(self, masked: Masked) -> tuple[Tensor, Tensor, Tensor]:
        """Returns contexts, targets (B, M, D), normalised for the similarity, and the positives' scores (B, M)."""
        kind = self.loss_config.similarity
        context, targets = (contrastive.normalize(x, kind) for x in (masked.context, masked.targets))
        return context, targets, contrastive.pair_scores(context, targets, kind, self._temperature())

    def _scores(self, context: Tensor, candidates: Tensor) -> Tensor:
        return contrastive.cross_scores(context, candidates, self.loss_config.similarity, self._temperature())

    def _negatives(self, context: Tensor, targets: Tensor, masked: Masked, draws: Draws) -> list[Negatives]:
        """Returns the negatives that `loss.negatives` asks for, those with the positive's code taken out."""
        kind, num = self.loss_config.negatives, self.num_negatives
        if kind == "pool":
            return [self._pool(context, targets, masked, draws, num)]
        if kind == "queue":
            return [self._remembered(context, targets, masked, draws)]
        weights = self._window_weights(masked, draws, num // 2 if kind == "mixed" else num)
        row = Negatives(self._scores(context, targets), weights)
        if kind == "mixed":
            return [row, self._pool(context, targets, masked, draws, num - num // 2)]
        return [contrastive.hardest(row, num, self.loss_config.num_negatives) if kind == "hard" else row]

    def _window_weights(self, masked: Masked, draws: Draws, num: Tensor) -> Tensor:
        """Returns how often each masked frame of a window is a negative of each other one (B, M, M)."""
        shape = masked.context.shape[:2]
        if self.loss_config.negatives in ("expected", "hard"):
            weights = contrastive.expected_weights(masked.count, shape[1], num)
        else:
            weights = contrastive.drawn_weights(self._uniform(masked, draws), masked.count, num)
        return weights * ~contrastive.same_code(masked.ids, masked.ids)

    def _pool(self, context, targets, masked: Masked, draws: Draws, num: Tensor) -> Negatives:
        """Returns candidates drawn from the masked frames of the whole batch, the same for all anchors."""
        index = contrastive.pool_index(draws.uniform(*context.shape[:2]), masked.valid, self.loss_config.pool_frames)
        weights = contrastive.pool_weights(index, masked.valid, num)
        ids = None if masked.ids is None else masked.ids.flatten()[index]
        weights = weights * ~contrastive.same_code(masked.ids, ids)
        return Negatives(self._scores(context, targets.flatten(0, 1)[index]), weights)

    def _remembered(self, context, targets, masked: Masked, draws: Draws) -> Negatives:
        """Returns candidates drawn from the memory bank; in training the bank then takes in some of this batch."""
        size = min(self.loss_config.pool_frames, self.loss_config.queue_frames)
        pick = (draws.uniform(len(context), size)[0] * self.loss_config.queue_frames).long()
        # Copies: the backward pass needs the values from before the push.
        candidates = contrastive.normalize(self.queue.targets[pick], self.loss_config.similarity)
        weights = (self.num_negatives / size) * ~contrastive.same_code(masked.ids, self.queue.ids[pick])
        negatives = Negatives(self._scores(context, candidates), weights.expand(*context.shape[:2], size))
        if self.training:
            new = contrastive.pool_index(draws.uniform(*context.shape[:2]), masked.valid, size)
            self.queue.push(targets.flatten(0, 1)[new], None if masked.ids is None else masked.ids.flatten()[new])
        return negatives
