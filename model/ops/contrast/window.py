"""`contrast` in plain PyTorch, keeping one (B, M, M) for the backward pass. Shape letters: B batch, M masked frames of a window, D target width."""

import torch
import torch.nn.functional as F

from model.ops.contrast.reference import counts_in

_NEVER = -1e30


def contrast_torch(context, targets, ids, words, temperature, cosine):
    """Loss (B, M) and whether no negative beats the positive (B, M), in at least float32; see `contrast`."""
    kept = context.dtype
    context, targets = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (context, targets))
    if cosine:
        context, targets = F.normalize(context, dim=-1), F.normalize(targets, dim=-1)
    weights = counts_in(words, context.shape[1])
    if ids is not None:
        weights = weights * (ids[:, :, None] != ids[:, None, :])
    return WindowContrast.apply(context, targets, temperature, weights, kept)


class WindowContrast(torch.autograd.Function):
    """InfoNCE of every frame against the frames of its own window, when the similarity is a product.

    Forward: s = context targets^T / temperature, p = softmax over the positive and the candidates by weight.
    Backward: d loss_i / d s_ij = p_ij, less 1 for the positive. So p is all that is kept of the (B, M, M), and where
    contexts come in bfloat16 it takes part in the products of the backward pass in bfloat16 too.
    """

    @staticmethod
    def forward(ctx, context, targets, temperature, weights, kept):
        """Returns the loss of every anchor (B, M) in nats and whether no negative beats its positive (B, M).

        Args:
            context, targets: (B, M, D), normalised.
            temperature: 0-dim.
            weights: (B, M, M) how often frame j was drawn as a negative of anchor i.
            kept: dtype of p.
        """
        scores = context @ targets.mT / temperature
        positive = (context * targets).sum(dim=-1) / temperature
        drawn = weights > 0
        top = torch.where(drawn, scores, _NEVER).amax(dim=-1).maximum(positive)
        # The clamp only touches frames that were not drawn.
        shares = weights * (scores - top[..., None]).clamp_max(0).exp()
        share = (positive - top).exp()
        total = shares.sum(dim=-1) + share
        probs, prob = shares / total[..., None], share / total
        right = ~((scores > positive[..., None]) & drawn).any(dim=-1)
        mean = (probs * scores).sum(dim=-1) - (1 - prob) * positive if ctx.needs_input_grad[2] else None
        ctx.save_for_backward(context, targets, temperature, probs.to(kept), prob, mean)
        ctx.mark_non_differentiable(right)
        return total.log() + (top - positive), right

    @staticmethod
    def backward(ctx, grad, _):
        """Returns the gradients of contexts, targets and, where it is learned, the temperature."""
        context, targets, temperature, probs, prob, mean = ctx.saved_tensors
        pull = (grad / temperature)[..., None]
        push = pull * (1 - prob)[..., None]
        d_context = pull * (probs @ targets.to(probs.dtype)) - push * targets
        d_targets = (probs.mT @ (pull * context).to(probs.dtype)).to(targets.dtype) - push * context
        d_temperature = None if mean is None else -(grad * mean).sum() / temperature
        return d_context, d_targets, d_temperature, None, None
