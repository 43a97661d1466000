"""Masked frames compared with candidates: which negatives, which similarity, which temperature.

Shapes: B batch, M masked frames of a window, D target width, K negatives, P frames of a pool.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model import contrastive
from model.collective import gather
from model.config import LossConfig
from model.contrastive import MOST_COUNTED, Negatives
from model.draws import Draws, KeyedDraws
from model.ops.contrast import contrast
from model.ops.contrast.window import WindowContrast
from model.schedule import cosine_schedule

TIE_NEGATIVES = 100
"""Negatives of the fixed task of `top1_tie`."""


class MaskedFrames(NamedTuple):
    """The masked frames of a batch: contexts beside their targets."""

    context: Tensor
    """(B, M, D)"""
    targets: Tensor
    """(B, M, D)"""
    ids: Tensor | None
    """(B, M) one integer a code, None where targets are continuous."""
    count: Tensor
    """(B,) masked frames before the padding: the first ones of the M."""

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
    def push(self, targets: Tensor, ids: Tensor | None, valid: Tensor):
        """Replaces the oldest entries by those of the targets (P, D), with code ids (P,), that are valid (P,)."""
        number, total = valid.cumsum(0) - 1, valid.sum()
        size = len(self.targets)
        kept = valid & (number >= total - size)  # of more than there is room for, the last ones
        place = torch.where(kept, (self.next + number) % size, size)
        self.targets.copy_(_with(self.targets, place, targets))
        if ids is not None:
            self.ids.copy_(_with(self.ids, place, ids))
        self.next.copy_((self.next + total) % size)


def _with(memory: Tensor, place: Tensor, new: Tensor) -> Tensor:
    """Returns the memory (N, ...) with new entries (P, ...) in their places (P,); place N is nowhere."""
    return torch.cat([memory, memory[:1]]).index_copy(0, place, new.to(memory.dtype))[:-1]


class _Within(torch.autograd.Function):
    """x clamped to bounds. Its gradient is that of x, but where a step down it would lead further out."""

    @staticmethod
    def forward(ctx, x, low, high):
        ctx.save_for_backward(x)
        ctx.bounds = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, grad):
        (x,), (low, high) = ctx.saved_tensors, ctx.bounds
        return torch.where(((x < low) & (grad > 0)) | ((x > high) & (grad < 0)), 0, grad), None, None


class Comparison(nn.Module):
    """InfoNCE of masked frames against the negatives that the configuration asks for (Baevski et al. 2020, section 3.2).

    Temperature and number of negatives (at most the configured one) are 0-dim tensors: schedules and searches that change
    them recompile nothing.

    Args:
        width: D of contexts and targets.
        config: of the loss.
        backend: of the operators, "auto" or "torch".
    """

    def __init__(self, width: int, config: LossConfig, backend: str = "auto"):
        super().__init__()
        self.config, self.backend = config, backend
        self.queue = TargetQueue(config.queue_frames, width) if config.negatives == "queue" else None
        if config.temperature_mode == "learned":
            self.log_temperature = nn.Parameter(torch.tensor(config.temperature).log())
        self.register_buffer("temperature", torch.tensor(config.temperature), persistent=False)
        self.register_buffer("num_negatives", torch.tensor(config.num_negatives), persistent=False)

    def set_progress(self, progress: float) -> None:
        """Sets an annealed temperature to its value at `progress` in [0, 1] of the full budget."""
        if self.config.temperature_mode == "annealed":
            self.temperature.fill_(cosine_schedule(self.config.temperature, self.config.temperature_end, progress))

    def current_temperature(self) -> Tensor:
        """Returns the temperature (0-dim) as it is used, with gradient where it is learned."""
        if self.config.temperature_mode == "learned":
            # Below 0.02 the loss only sharpens what it already knows, above 1 it hardly sees the similarity.
            return _Within.apply(self.log_temperature.exp(), 0.02, 1.0)
        return self.temperature

    def forward(
        self, frames: MaskedFrames, draws: Draws, remembered: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns InfoNCE of every masked frame (B, M) in nats, and whether no negative beats its positive (B, M).

        Args:
            frames: contexts and targets.
            draws: where random numbers come from.
            remembered: of `recall`, where negatives come from the memory bank.
        """
        loss = self.config
        within_window = loss.negatives in ("row", "expected") and loss.similarity != "l2"
        if within_window and loss.negatives == "row" and loss.num_negatives <= MOST_COUNTED:
            words = contrastive.drawn_words(self._uniform(frames, draws), frames.count, self.num_negatives)
            cosine = loss.similarity == "cosine"
            pair = (frames.context, frames.targets, frames.ids)
            return contrast(*pair, words, self.current_temperature(), cosine=cosine, backend=self.backend)
        context, targets, positive = self._scored(frames)
        if within_window:
            weights = self._window_weights(frames, draws, self.num_negatives)
            temperature = self.current_temperature()
            return WindowContrast.apply(context, targets, temperature, weights, frames.context.dtype)
        return contrastive.info_nce(positive, *self._negatives(context, targets, frames, draws, remembered))

    @torch.no_grad()
    def recall(self, batch: int, draws: Draws) -> tuple[Tensor, Tensor] | None:
        """Returns targets (P, D) drawn from the memory bank, and their ids (P,); None where there is none.

        They are copies: the backward pass needs them as they were when the bank has already taken in others.
        """
        if self.queue is None:
            return None
        size = min(self.config.pool_frames, self.config.queue_frames)
        pick = (draws.uniform(batch, size)[0] * self.config.queue_frames).long()
        return self.queue.targets[pick], self.queue.ids[pick]

    @torch.no_grad()
    def remember(self, frames: MaskedFrames, draws: Draws) -> None:
        """Puts some of a step's targets, drawn on every worker, into the memory bank that all workers have alike."""
        size = min(self.config.pool_frames, self.config.queue_frames)
        new = contrastive.pool_index(draws.uniform(*frames.targets.shape[:2]), frames.valid, size)
        targets = contrastive.normalize(frames.targets, self.config.similarity).flatten(0, 1)[new]
        ids = None if frames.ids is None else gather(frames.ids.flatten()[new])
        self.queue.push(gather(targets), ids, gather(frames.valid.flatten()[new].byte()).bool())

    def top1_tie(self, frames: MaskedFrames, draws: KeyedDraws) -> Tensor:
        """Returns the tie-aware accuracy of every frame (B, M) against 100 drawn frames of its window, duplicates kept."""
        context, targets, positive = self._scored(frames)
        uniform = draws.uniform(*context.shape[:2], TIE_NEGATIVES)
        weights = contrastive.drawn_weights(uniform, frames.count, uniform.new_tensor(TIE_NEGATIVES))
        negatives = Negatives(self._scores(context, targets), weights)
        return contrastive.top1_tie(positive, negatives, contrastive.same_code(frames.ids, frames.ids))

    def _uniform(self, frames: MaskedFrames, draws: Draws) -> Tensor:
        """Returns the random numbers (B, M, K_max) that draw the negatives within windows."""
        return draws.uniform(*frames.context.shape[:2], self.config.num_negatives)

    def _scored(self, frames: MaskedFrames) -> tuple[Tensor, Tensor, Tensor]:
        """Returns contexts, targets (B, M, D), normalised for the similarity, and the positives' scores (B, M)."""
        kind = self.config.similarity
        context, targets = (contrastive.normalize(x, kind) for x in (frames.context, frames.targets))
        return context, targets, contrastive.pair_scores(context, targets, kind, self.current_temperature())

    def _scores(self, context: Tensor, candidates: Tensor) -> Tensor:
        return contrastive.cross_scores(context, candidates, self.config.similarity, self.current_temperature())

    def _negatives(
        self, context: Tensor, targets: Tensor, frames: MaskedFrames, draws: Draws, remembered
    ) -> list[Negatives]:
        """Returns the negatives that `loss.negatives` asks for, those with the positive's code taken out."""
        kind, num = self.config.negatives, self.num_negatives
        if kind == "pool":
            return [self._pool(context, targets, frames, draws, num)]
        if kind == "queue":
            return [self._remembered(context, frames, *remembered)]
        weights = self._window_weights(frames, draws, num // 2 if kind == "mixed" else num)
        row = Negatives(self._scores(context, targets), weights)
        if kind == "mixed":
            return [row, self._pool(context, targets, frames, draws, num - num // 2)]
        return [contrastive.hardest(row, num, self.config.num_negatives) if kind == "hard" else row]

    def _window_weights(self, frames: MaskedFrames, draws: Draws, num: Tensor) -> Tensor:
        """Returns how often each masked frame of a window is a negative of each other one (B, M, M)."""
        shape = frames.context.shape[:2]
        if self.config.negatives in ("expected", "hard"):
            weights = contrastive.expected_weights(frames.count, shape[1], num)
        else:
            weights = contrastive.drawn_weights(self._uniform(frames, draws), frames.count, num)
        return weights * ~contrastive.same_code(frames.ids, frames.ids)

    def _pool(self, context, targets, frames: MaskedFrames, draws: Draws, num: Tensor) -> Negatives:
        """Returns candidates drawn from the masked frames of the whole batch, the same for all anchors."""
        index = contrastive.pool_index(draws.uniform(*context.shape[:2]), frames.valid, self.config.pool_frames)
        weights = contrastive.pool_weights(index, frames.valid, num)
        ids = None if frames.ids is None else frames.ids.flatten()[index]
        weights = weights * ~contrastive.same_code(frames.ids, ids)
        return Negatives(self._scores(context, targets.flatten(0, 1)[index]), weights)

    def _remembered(self, context: Tensor, frames: MaskedFrames, targets: Tensor, ids: Tensor) -> Negatives:
        """Returns what was recalled from the memory bank as candidates."""
        candidates = contrastive.normalize(targets, self.config.similarity)
        weights = (self.num_negatives / len(ids)) * ~contrastive.same_code(frames.ids, ids)
        return Negatives(self._scores(context, candidates), weights.expand(*context.shape[:2], len(ids)))
