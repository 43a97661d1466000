"""The law: noise of a seed, hard samples and straight-through gradients, in plain PyTorch.

Shape letters: N frames, G groups, V codes of a group, E channels of a code.
"""

import torch

from model.ops.philox import philox


def piece_width(num_codes):
    """Codes that one output of the random number generator serves: one call has four, and serves four such pieces."""
    wide = max(16, -(-num_codes // 32))
    return 1 << (min(wide, -(-num_codes // 4)) - 1).bit_length()


def gumbel_noise_reference(seed, num_frames, num_groups, num_codes):
    """Standard Gumbel noise (N, G, V), float32: -ln(-ln(1 - t)), t = (k + 1/2) / 2^23, k from the bits of Philox4x32-10.

    The counter is (n G + g, place in the pieces, 0, 0), the
    key is the seed, an int64 tensor of one element.
    """
    width = piece_width(num_codes)
    calls = -(-num_codes // (4 * width))
    row = torch.arange(num_frames * num_groups, device=seed.device)[:, None]
    place = torch.arange(calls * width, device=seed.device)[None, :]
    bits = torch.stack(torch.broadcast_tensors(*philox(seed.reshape(()), row, place)), dim=1)
    bits = bits.unflatten(2, (calls, width)).transpose(1, 2).flatten(1)[:, :num_codes]
    t = ((bits >> 9).double() + 0.5) / 2**23
    return (-(-torch.log1p(-t)).log()).float().view(num_frames, num_groups, num_codes)


def sample_codes_reference(logits, codebook, temperature, weight, noise):
    """q (N, G, E), ids (N, G), mean probabilities (G, V) for noise (N, G, V); see `sample_codes`."""
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    ids = (scores + noise).argmax(dim=-1)
    soft = ((scores + noise) / temperature).softmax(dim=-1)
    chosen = codebook[torch.arange(len(codebook), device=ids.device), ids]
    # Straight-through: the value is the chosen code, the logits' gradient that of the mean of all codes.
    through = torch.einsum("ngv,gve->nge", soft, codebook.detach().to(soft.dtype))
    q = chosen + (through - through.detach()).to(chosen.dtype)
    return q.to(logits.dtype), ids, torch.einsum("n,ngv->gv", weight.to(scores.dtype), scores.softmax(dim=-1))


def count_codes_reference(ids, weight, num_codes):
    """Weight (G, V) of the frames that took each code; see `count_codes`."""
    groups = ids.shape[1]
    flat = ids + num_codes * torch.arange(groups, device=ids.device)
    counts = torch.zeros(groups * num_codes, device=ids.device, dtype=weight.dtype)
    return counts.index_add(0, flat.flatten(), weight[:, None].expand_as(flat).flatten()).view(groups, num_codes)
