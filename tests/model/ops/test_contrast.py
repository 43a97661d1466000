"""What `contrast` says of its outputs before anything runs, and what it does not do."""

import pytest
import torch

pytest.importorskip("triton")
from model.ops.contrast import contrast
from model.ops.contrast.reference import contrast_reference


def test_shapes_are_known_before_anything_runs():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        context, targets = (torch.empty(3, 70, 256, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
        ids, words = torch.zeros(3, 70, dtype=torch.int64), torch.zeros(3, 70, 18, dtype=torch.int32)
        temperature = torch.tensor(0.1, requires_grad=True)
        loss, right = contrast(context, targets, ids, words, temperature, backend="triton")
        assert (loss.shape, loss.dtype, right.shape, right.dtype) == ((3, 70), torch.float32, (3, 70), torch.bool)
        inputs = (context, targets, temperature)
        for value, grad in zip(inputs, torch.autograd.grad(loss.sum(), inputs), strict=True):
            assert (grad.shape, grad.dtype) == (value.shape, value.dtype)


def test_a_width_that_the_kernels_do_not_do_is_named():
    x, ids, words = torch.zeros(1, 8, 48), torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, 2, dtype=torch.int32)
    with pytest.raises(ValueError, match="power of 2 of channels from 16 to 256, not 48"):
        contrast(x, x, ids, words, torch.tensor(0.1), backend="triton")


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("with_codes", [True, False])
def test_plain_pytorch_says_what_the_law_says(cosine, with_codes):
    generator = torch.Generator().manual_seed(1)
    context, targets = (torch.randn(2, 6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    codes = torch.randint(3, (2, 6), generator=generator)
    words = torch.randint(3, (2, 6, 8), generator=generator, dtype=torch.uint8).view(torch.int32)
    temperature = torch.tensor(0.2, dtype=torch.float64)
    inputs = [x.requires_grad_() for x in (context, targets, temperature)]
    ids = codes if with_codes else None
    different = torch.arange(6).expand(2, 6)  # all frames differ, but for a frame from itself
    words.view(torch.uint8)[:, range(6), range(6)] = 0
    law = contrast_reference(context, targets, codes if with_codes else different, words, temperature, cosine)
    loss, right = contrast(context, targets, ids, words, temperature, cosine=cosine)
    torch.testing.assert_close(loss, law[0])
    assert (right == law[1]).all()
    of_law, ours = (torch.autograd.grad(x.square().sum(), inputs) for x in (law[0], loss))
    for wanted, found in zip(of_law, ours, strict=True):
        torch.testing.assert_close(found, wanted)
