"""The picker: where its context comes from, sample by sample."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.config import HeadConfig
from model.picker import LABELS, PhasePicker
from model.preprocess import standardize


@pytest.fixture
def picker(tiny):
    return PhasePicker(tiny(), HeadConfig(width=8)).eval()


def test_channels_are_p_then_s_then_noise():
    assert LABELS == "PSN"


def test_a_length_that_needs_padding_is_the_padded_window_cut(picker):
    """301 samples are 320 with 19 zeros behind them: frames keep their place up to the end."""
    x = torch.randn(2, 3, 301)
    padded = picker.logits(F.pad(x, (0, 19)), torch.tensor([301, 301]))
    torch.testing.assert_close(picker.logits(x), padded[..., :301])


def test_context_is_read_between_the_centres_of_its_frames(picker):
    """Frame s is centred on sample 4 s, as its convolutions are; beyond the last centre it is constant."""
    x = standardize(torch.randn(2, 3, 256))
    context = picker.backbone(x).detach().numpy()
    place = np.arange(256) / 4
    read = [[np.interp(place, np.arange(64), context[b, :, d]) for d in range(32)] for b in range(2)]
    want = picker.head(torch.cat([torch.tensor(np.array(read), dtype=torch.float32), x], dim=1))
    torch.testing.assert_close(picker.logits(x), want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(picker(x), want.softmax(dim=1), rtol=1e-4, atol=1e-4)


def test_padding_has_no_say(picker):
    x = torch.randn(2, 3, 256) + 3
    garbage = x.clone()
    garbage[1, :, 180:] = 1e5
    num_valid = torch.tensor([256, 180])
    assert torch.equal(picker(x, num_valid), picker(garbage, num_valid))
    assert not torch.equal(picker(x), picker(garbage))


def test_head_sees_the_samples_of_two_kernels(tiny):
    """Two convolutions of 7 samples reach 6 samples to each side; the waveform is the head's input beside the context."""
    head = PhasePicker(tiny(), HeadConfig(width=8, kernel=7)).head.double()
    x = torch.randn(1, 35, 64, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(head(x)[0, :, 30].sum(), x)
    assert (grad[0].abs().sum(0) > 0).nonzero().flatten().tolist() == list(range(24, 37))
