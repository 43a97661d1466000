"""One door to both implementations of AdamW over all parameters."""

from torch import Tensor

from model.ops.adamw.reference import ManyTensorsReference
from model.ops.backend import TRITON, by_kernels

if TRITON:
    from model.ops.adamw.fused import ManyTensorsTriton


def many_tensors(
    parameters: list[Tensor], first: list[Tensor], second: list[Tensor], groups: list[int], decays: list[float], *,
    backend: str = "auto",
):  # fmt: skip
    """Returns an object that takes the norm and the AdamW step (Loshchilov & Hutter 2019) of all parameters at once.

    Its methods: `locate(grads)` notes where gradients lie, before all others; `norm()` returns the norm of all of them, 0-dim;
    `step(lrs, count, scale, skip, betas, eps)` takes one step in place, where `lrs` has the learning rate of each group,
    `count` (0-dim float) the steps taken before, gradients are divided by `scale` (0-dim), and nothing happens where
    `skip` (0-dim) is not 0; `write_table()` has to follow the recording of a CUDA graph.

    Args:
        parameters: In fp32 and contiguous, on one device.
        first: Moments of the gradient, in the order of the parameters; changed in place. Likewise second.
        second: Of its square.
        groups: Number of the group of each parameter, all of which has one learning rate.
        decays: Weight decay of each parameter.
        backend: "torch", "triton", or "auto": triton on a GPU, torch elsewhere.
    """
    make = ManyTensorsTriton if by_kernels(backend, parameters[0]) else ManyTensorsReference
    return make(parameters, first, second, groups, decays)
