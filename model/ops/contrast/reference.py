"""The law in plain PyTorch, with everything (B, M, M) in memory. Shape letters: B batch, M masked frames of a window, D target width."""

import torch
import torch.nn.functional as F


def counts_in(words, num_frames):
    """(B, M, M) float32: the four bytes of every word, from the lowest on, side by side."""
    places = 8 * torch.arange(4, device=words.device, dtype=torch.int32)
    return ((words[..., None] >> places) & 255).flatten(2)[..., :num_frames].float()


def contrast_reference(context, targets, ids, words, temperature, cosine):
    """Loss (B, M) and whether the positive is best (B, M); see `contrast`."""
    if cosine:
        context, targets = F.normalize(context, dim=-1), F.normalize(targets, dim=-1)
    scores = context @ targets.mT / temperature
    positive = scores.diagonal(dim1=1, dim2=2)
    weights = counts_in(words, context.shape[1]) * (ids[:, :, None] != ids[:, None, :])
    logits = torch.where(weights > 0, scores + weights.to(scores.dtype).log(), float("-inf"))
    total = torch.cat([positive[..., None], logits], dim=-1).logsumexp(dim=-1)
    return total - positive, ~((scores > positive[..., None]) & (weights > 0)).any(dim=-1)
