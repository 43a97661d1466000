"""`backbone.kernel="torch"` keeps the kernels of this project out of the model: for a GPU whose compiler gets one wrong."""

import pytest
import torch


@pytest.mark.parametrize("kernel", ["torch", "reference", "auto", "xlstm"])
def test_only_without_kernels_nothing_asks_for_a_gpu(pretrain, kernel):
    """Whoever may take kernels asks a tensor whether it is on a GPU."""
    asked = []

    class Asked(torch.Tensor):
        is_cuda = property(lambda self: bool(asked.append(self.shape)))

    net = pretrain(kernel=kernel)
    x = torch.randn(2, 3, 256).as_subclass(Asked)
    if kernel == "xlstm":
        with pytest.raises(ValueError, match="CUDA"):
            net(x)
    else:
        net(x).total.backward()
    assert (kernel in ("torch", "reference")) == (not asked)
