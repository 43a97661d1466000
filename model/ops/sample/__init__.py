"""Hard Gumbel-softmax samples of a product quantizer's codes, with straight-through gradients: `sample`."""

from model.ops.sample.op import count_codes, gumbel, sample

__all__ = ["count_codes", "gumbel", "sample"]
