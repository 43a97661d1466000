"""Codes by Gumbel-softmax. Shapes: B batch, N frames, W feature width, G code groups, V codes per group, E code width, D target width."""

import torch
from torch import Tensor, nn

from model.config import QuantizerConfig
from model.draws import Draws
from model.ops.backend import by_kernels
from model.ops.gumbel_codes import sample_codes
from model.quantizers.interface import Quantized, Quantizer, code_counts
from model.schedule import cosine_schedule


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


class GumbelQuantizer(Quantizer):
    """Product quantizer with Gumbel-softmax samples (Baevski et al. 2020, wav2vec 2.0, section 2).

    In training a code is a sample of softmax(logits): hard samples do not depend on the Gumbel temperature, which shapes the
    backward pass alone. In evaluation it is the most probable one.
    """

    def __init__(self, width: int, target_dim: int, config: QuantizerConfig, backend: str = "auto"):
        super().__init__()
        self.backend = backend  # of its operators
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
        """Returns the quantised frames; the noise comes from `draws` in training, in evaluation there is none."""
        batch, num_frames, _ = features.shape
        groups, codes = self.config.num_groups, self.config.num_codes
        logits = self._logits(features).flatten(0, 1)
        if self.scale != 1:
            logits = logits * self.scale
        share = (weight.flatten() / weight.sum().clamp_min(1)).to(self.codebook.dtype)
        seed = draws.seed() if self.training and by_kernels(self.backend, logits) else None
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

    def set_progress(self, progress: float) -> None:
        """Sets the Gumbel temperature."""
        self.temperature.fill_(cosine_schedule(self.config.gumbel_start, self.config.gumbel_end, progress))
