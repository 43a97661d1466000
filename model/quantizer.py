"""Discrete targets. Shapes: B batch, N frames, W feature width, G code groups, V codes per group, E code width, D target width.

Every quantizer maps features (B, N, W) to a `Quantized`; `build_quantizer` makes the one that the configuration names.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.config import ModelConfig, QuantizerConfig
from model.draws import Draws
from model.ops.gumbel_codes import count_codes, sample_codes


class Quantized(NamedTuple):
    """What a quantizer says about N frames."""

    targets: Tensor
    """(B, N, D) vectors that contexts are compared with. They carry gradient to features and codebook."""
    codes: Tensor
    """(B, N, G) int64 ids; G = 0 where targets are continuous."""
    mean_probs: Tensor
    """(G, V) probability of each code, averaged over the frames: noise-free softmax where there are logits,
    otherwise the frequency of the codes, without gradient."""
    counts: Tensor
    """(G, V) frames that took each code."""
    aux_loss: Tensor
    """Scalar that the quantizer wants added to the loss (commitment)."""


def code_counts(codes: Tensor, weight: Tensor, num_codes: int, backend: str = "auto") -> Tensor:
    """Returns how often every code occurs (G, V), for codes (B, N, G) counted with weight (B, N), float32."""
    return count_codes(codes.flatten(0, 1), weight.float().flatten(), num_codes, backend=backend)


def perplexity(probs: Tensor) -> Tensor:
    """Returns exp(entropy) of each group (G,), 1 to V, for probabilities (G, V)."""
    # The clamp keeps the gradient finite where a probability has underflowed to zero.
    return (-(probs * probs.clamp_min(1e-10).log()).sum(dim=-1)).exp()


def used_fraction(counts: Tensor) -> Tensor:
    """Returns the scalar fraction of all codes with a count (G, V) above zero; NaN without codes."""
    return (counts > 0).float().mean()


class StraightThroughCodes(torch.autograd.Function):
    """Hard Gumbel-softmax sample and look-up, with the mean of the noise-free softmax.

    Forward: id = argmax(logits + noise), q = codebook[id]; p = sum_n weight_n softmax(logits_n).
    Backward: straight-through (Jang et al. 2017, section 2.2), as if q were y @ codebook with
    y = softmax((logits + noise) / temperature). Neither one-hot vectors nor probabilities are kept: both softmaxes are
    recomputed, and the sample is a look-up, so nothing of size (N, V, E) exists.
    """

    @staticmethod
    def forward(ctx, logits, noise, codebook, temperature, weight):
        """Returns q (N, G, E), ids (N, G), p (G, V) for logits, noise (N, G, V), codebook (G, V, E), weight (N,)."""
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
        ids = (scores + noise).argmax(dim=-1)
        mean_probs = torch.einsum("n,ngv->gv", weight, scores.softmax(dim=-1))
        groups = torch.arange(codebook.shape[0], device=ids.device)
        ctx.save_for_backward(logits, noise, codebook, temperature, weight, ids)
        ctx.mark_non_differentiable(ids)
        return codebook[groups, ids], ids, mean_probs

    @staticmethod
    def backward(ctx, d_codes, _, d_mean):
        """Returns the gradients of logits and codebook."""
        logits, noise, codebook, temperature, weight, ids = ctx.saved_tensors
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # One product for all groups gives (N, G V) as the softmax reads it; one a group gave (G, N, V).
        every_group = torch.block_diag(*codebook.to(logits.dtype)).t()
        d_soft = (d_codes.to(logits.dtype).flatten(1) @ every_group).view_as(scores).to(scores.dtype)
        d_logits = _softmax_grad(((scores + noise) / temperature).softmax(dim=-1), d_soft / temperature)
        d_logits = d_logits + _softmax_grad(scores.softmax(dim=-1), weight[:, None, None] * d_mean)
        num_groups, num_codes, width = codebook.shape
        flat = (ids + num_codes * torch.arange(num_groups, device=ids.device)).flatten()
        d_codebook = codebook.new_zeros(num_groups * num_codes, width)
        d_codebook = d_codebook.index_add(0, flat, d_codes.to(codebook.dtype).flatten(0, 1))
        return d_logits.to(logits.dtype), None, d_codebook.view_as(codebook), None, None


def _softmax_grad(probs: Tensor, grad: Tensor) -> Tensor:
    """Returns the gradient of x for probs = softmax(x) and the gradient of probs."""
    return probs * (grad - (probs * grad).sum(dim=-1, keepdim=True))


class GumbelQuantizer(nn.Module):
    """Product quantizer with Gumbel-softmax samples (Baevski et al. 2020, wav2vec 2.0, section 2).

    In training a code is a sample of softmax(logits): hard samples do not depend on the Gumbel temperature, which shapes the
    backward pass alone. In evaluation it is the most probable one.
    """

    needs_all_frames = False
    backend = "auto"
    """Of its operators."""

    def __init__(self, width: int, target_dim: int, config: QuantizerConfig):
        super().__init__()
        groups, codes, dim = config.num_groups, config.num_codes, config.code_dim
        self.config = config
        self.codebook = nn.Parameter(torch.randn(groups, codes, dim))
        if config.logits == "linear":
            self.logits = nn.Linear(width, groups * codes)
            nn.init.normal_(self.logits.weight)
            nn.init.zeros_(self.logits.bias)
        self.scale = width**-0.5 if config.scale_logits else 1.0
        self.output = nn.Linear(groups * dim, target_dim)
        self.register_buffer("temperature", torch.tensor(config.gumbel_start), persistent=False)

    def forward(self, features: Tensor, weight: Tensor, draws: Draws) -> Quantized:
        """Returns the quantised frames.

        Args:
            features: (B, N, W).
            weight: (B, N), how much a frame counts for the usage; 0 for padding.
            draws: Where the Gumbel noise comes from; not used in evaluation.
        """
        batch, num_frames, _ = features.shape
        groups, codes = self.config.num_groups, self.config.num_codes
        logits = self._logits(features).flatten(0, 1)
        if self.scale != 1:
            logits = logits * self.scale
        share = (weight.flatten() / weight.sum().clamp_min(1)).to(self.codebook.dtype)
        seed = draws.seed() if self.training and self.backend == "auto" and logits.is_cuda else None
        if seed is not None:
            vectors, ids, mean_probs = sample_codes(logits, self.codebook, self.temperature, share, seed)
        else:
            noise = torch.zeros((), device=features.device)
            if self.training:
                noise = draws.gumbel(batch, num_frames, groups, codes).flatten(0, 1)
            vectors, ids, mean_probs = StraightThroughCodes.apply(logits, noise, self.codebook, self.temperature, share)
        targets = self.output(vectors.flatten(1)).unflatten(0, (batch, num_frames))
        ids = ids.unflatten(0, (batch, num_frames))
        return Quantized(targets, ids, mean_probs, code_counts(ids, weight, codes, self.backend), targets.new_zeros(()))

    def _logits(self, features: Tensor) -> Tensor:
        """Returns the logits (B, N, G, V)."""
        groups = self.config.num_groups
        if self.config.logits == "linear":
            return self.logits(features).unflatten(-1, (groups, -1))
        # Minus the squared distance, without |feature|^2, which no softmax over codes can see.
        dot = torch.einsum("bnge,gve->bngv", features.unflatten(-1, (groups, -1)), self.codebook)
        return 2 * dot - self.codebook.square().sum(dim=-1)


class NoQuantizer(nn.Module):
    """Continuous targets: a linear map of the features."""

    needs_all_frames = False

    def __init__(self, width: int, target_dim: int):
        super().__init__()
        self.output = nn.Linear(width, target_dim)

    def forward(self, features: Tensor, weight: Tensor, draws: Draws) -> Quantized:
        """Returns targets (B, N, D) without codes; `weight` and `draws` are not used."""
        targets = self.output(features)
        codes = torch.zeros(*features.shape[:2], 0, dtype=torch.long, device=features.device)
        nothing = torch.zeros(0, 1, device=features.device)
        return Quantized(targets, codes, nothing, nothing, targets.new_zeros(()))


def build_quantizer(config: ModelConfig) -> nn.Module:
    """Returns the quantizer that `config.quantizer.kind` names, with kernels or without as the backbone has it.

    Build "ema" and "residual" after torch.distributed is initialised: whether their codebooks are the same on all
    ranks is decided here.
    """
    found = _build_quantizer(config)
    for part in found.modules():
        if isinstance(part, GumbelQuantizer):
            part.backend = config.backbone.operators
    return found


def _build_quantizer(config: ModelConfig) -> nn.Module:
    width, target_dim, quantizer = config.encoder.width, config.target_dim, config.quantizer
    if quantizer.kind == "gumbel":
        return GumbelQuantizer(width, target_dim, quantizer)
    if quantizer.kind == "none":
        return NoQuantizer(width, target_dim)
    # Imported here: the default quantizer needs no library.
    from model.quantizer_alternatives import FSQQuantizer, HierarchicalQuantizer, NearestQuantizer

    if quantizer.kind == "fsq":
        return FSQQuantizer(width, target_dim, quantizer)
    if quantizer.kind == "hierarchical":
        return HierarchicalQuantizer(width, target_dim, quantizer, config.backbone.pool[0])
    if quantizer.kind in ("ema", "residual"):
        return NearestQuantizer(width, target_dim, quantizer)
    raise ValueError(
        f"quantizer.kind={quantizer.kind!r} is unknown: take gumbel, ema, residual, fsq, hierarchical or none"
    )


def cosine_schedule(start: float, end: float, progress: float) -> float:
    """Returns the value at `progress` in [0, 1] of a half cosine from start to end."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def set_gumbel_temperature(module: nn.Module, progress: float):
    """Sets the temperature of every Gumbel quantizer in `module` to its value at `progress` of the full budget."""
    for part in module.modules():
        if isinstance(part, GumbelQuantizer):
            value = cosine_schedule(part.config.gumbel_start, part.config.gumbel_end, progress)
            part.temperature.fill_(value)
