"""The contrastive loss and the diversity of codes: functions, no state.

Shapes: B batch, M masked frames of a window, N candidates for negatives, D target width, K negatives, G code groups.

K negatives drawn with replacement from N candidates are the candidates with weights w_ij, how often j was drawn for i:
    loss_i = log(exp(s_ii) + sum_j w_ij exp(s_ij)) - s_ii        (Baevski et al. 2020, equation 3)
so all similarities s are one matrix product, and nothing of size (B, M, K, D) exists. K may be a 0-dim tensor.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from model.collective import begin_mean
from model.ops.contrast.reference import counts_in
from model.quantizers.interface import perplexity

MOST_COUNTED = 255
"""Negatives of a frame, of which all may be the same one, whose count a byte holds."""

_NOTHING = -1e30  # a logit that adds exactly nothing; unlike -inf it leaves no NaN in the gradient of an empty sum


class Negatives(NamedTuple):
    """Candidates that every anchor is compared with."""

    scores: Tensor
    """(B, M, N) similarities over temperature."""
    weights: Tensor
    """(B, M, N) how many negatives a candidate stands for; 0 takes it out."""


def normalize(x: Tensor, similarity: str) -> Tensor:
    """Returns contexts or targets (..., D) in at least float32, of length 1 for the cosine similarity."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return F.normalize(x, dim=-1) if similarity == "cosine" else x


def pair_scores(context: Tensor, targets: Tensor, similarity: str, temperature: Tensor) -> Tensor:
    """Returns the similarity (B, M) of each normalised context (B, M, D) with its own target (B, M, D)."""
    score = -(context - targets).square() if similarity == "l2" else context * targets
    return score.sum(dim=-1) / temperature


def cross_scores(context: Tensor, candidates: Tensor, similarity: str, temperature: Tensor) -> Tensor:
    """Returns all similarities (B, M, N) of normalised contexts (B, M, D) with candidates (B, N, D) or (N, D)."""
    score = context @ candidates.mT
    if similarity == "l2":
        lengths = context.square().sum(dim=-1)[..., :, None] + candidates.square().sum(dim=-1)[..., None, :]
        score = 2 * score - lengths
    return score / temperature


def code_ids(codes: Tensor, num_codes: int) -> Tensor | None:
    """Returns one integer (B, N) for the codes (B, N, G) of a frame, or None without codes."""
    if codes.shape[-1] == 0:
        return None
    place = num_codes ** torch.arange(codes.shape[-1], device=codes.device)
    return (codes * place).sum(dim=-1)


def same_code(ids: Tensor | None, candidate_ids: Tensor | None) -> Tensor:
    """Returns bool (B, M, N), true where anchor (B, M) and candidate (B, N) or (N,) have equal ids."""
    if ids is None:
        return torch.zeros((), dtype=torch.bool)
    return ids[..., :, None] == candidate_ids[..., None, :]


def drawn_weights(uniform: Tensor, count: Tensor, num_negatives: Tensor) -> Tensor:
    """Returns how often each frame of a window was drawn as a negative of each other one (B, M, M).

    Draws are with replacement from the window's other masked frames.

    Args:
        uniform: (B, M, K_max) random numbers in [0, 1); the first K of an anchor are used.
        count: (B,) valid masked frames of the window, the first ones of the M.
        num_negatives: K, 0-dim, at most K_max.
    """
    _, num_frames, most = uniform.shape
    if most <= MOST_COUNTED:
        return counts_in(drawn_words(uniform, count, num_negatives), num_frames)
    drawn, used = _drawn(uniform, count, num_negatives)
    weights = torch.zeros(*uniform.shape[:2], num_frames, device=uniform.device)
    return weights.scatter_add(2, drawn, used.float().expand_as(uniform))


def drawn_words(uniform: Tensor, count: Tensor, num_negatives: Tensor) -> Tensor:
    """Returns `drawn_weights` of at most 255 negatives as bytes, four in a word (B, M, M / 4 rounded up) int32.

    That is a quarter of the memory, which on a GPU decides how fast it is added to.
    """
    drawn, used = _drawn(uniform, count, num_negatives)
    words = torch.zeros(*uniform.shape[:2], -(-uniform.shape[1] // 4), device=uniform.device, dtype=torch.int32)
    return words.scatter_add(2, drawn // 4, used.int() << (8 * (drawn % 4)).int())


def _drawn(uniform: Tensor, count: Tensor, num_negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the frames drawn (B, M, K_max), and which of the draws count (B, 1, K_max)."""
    _, num_frames, most = uniform.shape
    anchor = torch.arange(num_frames, device=uniform.device)[:, None]
    others = (count - 1).view(-1, 1, 1)
    # Numbers below the anchor stay, the rest move up by one: the anchor itself is never drawn.
    drawn = torch.minimum((uniform * others).long(), (others - 1).clamp_min(0))
    drawn = (drawn + (drawn >= anchor)).clamp_max(num_frames - 1)
    return drawn, (torch.arange(most, device=uniform.device) < num_negatives) & (others > 0)


def expected_weights(count: Tensor, num_frames: int, num_negatives: Tensor) -> Tensor:
    """Returns the expectation K / (count - 1) of `drawn_weights` (B, M, M): no noise, and K may be any number."""
    position = torch.arange(num_frames, device=count.device)
    others = (position[None, None, :] < count.view(-1, 1, 1)) & (position[:, None] != position)
    return others * (num_negatives / (count - 1).clamp_min(1)).view(-1, 1, 1)


def pool_index(uniform: Tensor, valid: Tensor, size: int) -> Tensor:
    """Returns positions (P,) in the flattened batch of P = min(size, B M) frames, drawn from the valid ones first.

    `uniform` holds random numbers in [0, 1) and `valid` bools, both (B, M).
    """
    return (uniform + valid).flatten().topk(min(size, uniform.numel())).indices


def pool_weights(index: Tensor, valid: Tensor, num_negatives: Tensor) -> Tensor:
    """Returns the expected weights (B, M, P) of K draws from the pool `index` (P,), for anchors with `valid` (B, M).

    An anchor that is itself in the pool does not count.
    """
    inside = valid.flatten()[index]
    anchor = torch.arange(valid.numel(), device=index.device).view(*valid.shape, 1)
    others = inside & (anchor != index)
    return others * num_negatives / others.sum(dim=-1, keepdim=True).clamp_min(1)


def hardest(negatives: Negatives, num_negatives: Tensor, most: int) -> Negatives:
    """Returns the K most similar candidates of every anchor (B, M, `most`), of which the first K have weight 1."""
    most = min(most, negatives.scores.shape[-1])
    scores = negatives.scores.masked_fill(negatives.weights == 0, _NOTHING).topk(most, dim=-1).values
    rank = torch.arange(most, device=scores.device)
    return Negatives(scores, ((rank < num_negatives) & (scores > _NOTHING)).to(scores.dtype))


def info_nce(positive: Tensor, *blocks: Negatives) -> tuple[Tensor, Tensor]:
    """Returns the loss of every anchor (B, M) in nats and whether no negative beats its positive (B, M).

    Without negatives the loss is 0 and the anchor right: a collapsed codebook, whose negatives are all duplicates of
    the positive and have weight 0, reaches both. Neither number says that a codebook is alive.

    Args:
        positive: (B, M) similarities of anchors and their own targets, over temperature.
        blocks: Candidates; the negatives of all blocks together count.
    """
    total, right = positive, torch.ones_like(positive, dtype=torch.bool)
    for scores, weights in blocks:
        logits = torch.where(weights > 0, scores + weights.to(scores.dtype).log(), _NOTHING)
        total = torch.logaddexp(total, logits.logsumexp(dim=-1))
        right = right & ~((scores > positive[..., None]) & (weights > 0)).any(dim=-1)
    return total - positive, right


def top1_tie(positive: Tensor, negatives: Negatives, duplicates: Tensor) -> Tensor:
    """Returns the tie-aware accuracy of every anchor (B, M), comparable between all settings of the loss.

    1[no negative strictly better] / (1 + negatives with the positive's code). Duplicates are not taken out: guessing among
    equal codes is worth its chance, and a collapsed codebook scores exactly 1 / (K + 1). An untrained context over
    distinct codes scores a little more, 1 / (1 + different frames among the K draws).
    """
    scores, weights = negatives
    beaten = ((scores > positive[..., None]) & (weights > 0) & ~duplicates).any(dim=-1)
    return ~beaten / (1 + (weights * duplicates).sum(dim=-1))


def diversity_loss(probs: Tensor, kind: str) -> Tensor:
    """Returns the scalar diversity loss of mean code probabilities (G, V).

    "linear": (G V - sum_g P_g) / (G V) (Baevski et al. 2020, equation 4, with P_g the perplexity as in fairseq);
    "entropy": mean_g -log(P_g / V), whose pull stays constant when few codes are alive.
    """
    num_groups, num_codes = probs.shape
    if num_groups == 0:
        return probs.new_zeros(())
    each = perplexity(probs)
    if kind == "entropy":
        return (math.log(num_codes) - each.log()).mean()
    return (num_groups * num_codes - each.sum()) / (num_groups * num_codes)


def global_mean(probs: Tensor) -> Callable[[], Tensor]:
    """Begins to average `probs` over all ranks; returns what waits for the mean, with the gradient of this rank's part.

    Perplexity is not linear: the mean of the ranks' diversities has another gradient than the diversity of the mean. With
    p + (mean(p) - p) as a constant in the brackets, the average of the ranks' gradients is exact.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return lambda: probs
    average = probs.detach().clone()
    wait = begin_mean(average)

    def mean() -> Tensor:
        wait()
        return probs + (average - probs.detach())

    return mean
