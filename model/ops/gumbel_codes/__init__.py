"""Hard Gumbel-softmax samples of a product quantizer's codes, with straight-through gradients: `sample_codes`."""

from model.ops.gumbel_codes.op import count_codes, gumbel_noise, sample_codes

__all__ = ["count_codes", "gumbel_noise", "sample_codes"]
