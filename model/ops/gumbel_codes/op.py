"""One door to both implementations of `sample_codes`, and to the noise that they add."""

from model.ops.backend import TRITON, by_kernels
from model.ops.gumbel_codes.reference import count_codes_reference, gumbel_noise_reference, sample_codes_reference

if TRITON:
    from model.ops.gumbel_codes.fused import count_codes_triton, fits, gumbel_noise_triton, sample_codes_triton


def sample_codes(logits, codebook, temperature, weight, seed, *, backend="auto"):
    """Sampled codes q (N, G, E) in the dtype of the logits, their ids (N, G) int64, and mean probabilities (G, V).

    id = argmax(logits + noise), q = codebook[id]; mean = sum_n weight_n softmax(logits_n). The logits' gradient is that
    of q = softmax((logits + noise) / temperature) @ codebook (Jang et al. 2017, section 2.2), the codebook's that of the look-up.

    Args:
        logits: (N, G, V).
        codebook: (G, V, E).
        temperature: Tensor of one element; without gradient, like weight and seed.
        weight: Of each frame in the mean (N,).
        seed: int64 tensor of one element on the logits' device; the noise is a function of it and of the shape (N, G, V).
        backend: "torch", "triton", or "auto": triton on a GPU if the kernels do these sizes, else torch.
    """
    if by_kernels(backend, logits, lambda: fits(logits.shape[-1], codebook.shape[-1])):
        return sample_codes_triton(logits, codebook, temperature, weight, seed)
    return sample_codes_reference(logits, codebook, temperature, weight, gumbel_noise(seed, *logits.shape))


def count_codes(ids, weight, num_codes, *, backend="auto"):
    """How much weight (G, V) fell on every code, for ids (N, G) int64 and the frames' weights (N,) float32; no gradient."""
    if by_kernels(backend, ids):
        return count_codes_triton(ids.contiguous(), weight.contiguous(), num_codes)
    return count_codes_reference(ids, weight, num_codes)


def gumbel_noise(seed, num_frames, num_groups, num_codes, *, backend="auto"):
    """The noise (N, G, V) of a seed, standard Gumbel, float32; backends agree but for the rounding of two logarithms."""
    if by_kernels(backend, seed):
        return gumbel_noise_triton(seed, num_frames, num_groups, num_codes)
    return gumbel_noise_reference(seed, num_frames, num_groups, num_codes)
