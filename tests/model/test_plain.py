"""`backbone.kernel="torch"` keeps the kernels of this project out of the model: for a GPU whose compiler gets one wrong.

Whoever may take kernels asks a tensor whether it is on a GPU.
"""

import pytest
import torch

from model.draws import Draws
from model.quantizers import build_quantizer


@pytest.fixture
def watched():
    """A function that returns a random tensor of a shape, and the list of what was asked of it and of what came of it."""
    asked = []

    class Asked(torch.Tensor):
        is_cuda = property(lambda self: bool(asked.append(self.shape)))

    return lambda *shape: torch.randn(*shape).as_subclass(Asked), asked


@pytest.mark.parametrize("kernel", ["torch", "reference", "auto", "xlstm"])
def test_only_without_kernels_nothing_asks_for_a_gpu(pretrain, kernel, watched):
    build, asked = watched
    net = pretrain(kernel=kernel)
    x = build(2, 3, 256)
    if kernel == "xlstm":
        with pytest.raises(ValueError, match="CUDA"):
            net(x)
    else:
        net(x).total.backward()
    assert (kernel in ("torch", "reference")) == (not asked)


@pytest.mark.parametrize("kernel", ["torch", "reference", "auto", "xlstm"])
@pytest.mark.parametrize("kind", ["gumbel", "hierarchical"])
def test_quantizers_follow_the_kernel_of_the_backbone(tiny, kernel, kind, watched):
    build, asked = watched
    build_quantizer(tiny(kind=kind, kernel=kernel))(build(2, 8, 32), torch.ones(2, 8), Draws(torch.device("cpu")))
    assert (kernel in ("torch", "reference")) == (not asked)
