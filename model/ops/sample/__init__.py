"""Hard Gumbel-softmax samples of a product quantizer's codes, with straight-through gradients: `sample`."""

from model.ops.sample.op import gumbel, sample

__all__ = ["gumbel", "sample"]
