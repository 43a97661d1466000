"""The losses of fine-tuning against their equations, and what its masks hide."""

import numpy as np
import pytest
import torch

from model.classifier import SequenceClassifier
from model.config import HeadConfig
from model.detector import EventDetector
from model.labels import Labels, event_targets, pick_targets
from model.picker import PhasePicker

T = 256
VALID = torch.tensor([T, 200])
LABELS = Labels(
    torch.tensor([[60.0], [230.0]]),
    torch.tensor([[140.0], [torch.nan]]),
    torch.empty(2, 0),
    torch.tensor([False, False]),
    torch.tensor([1, -1]),
)


def build(kind, tiny, **head):
    return kind(tiny(dropout=0.0), HeadConfig(width=8, **head))


def mean_of_known(each: np.ndarray, weight: torch.Tensor) -> float:
    """The mean over the samples with a label, one after the other."""
    known = [each[b, t] for b in range(2) for t in range(T) if weight[b, t] > 0]
    assert 0 < len(known) < 2 * T
    return float(np.mean(known))


def test_a_picker_has_the_cross_entropy_with_soft_labels_of_its_width(tiny):
    picker, x = build(PhasePicker, tiny, label_width_s=0.1).eval(), torch.randn(2, 3, T)
    keep = torch.rand(2, T) < 0.7
    targets, weight = pick_targets(LABELS, VALID, T, 10.0)
    each = -(targets * picker(x, VALID).log()).sum(dim=1).detach().numpy()
    torch.testing.assert_close(
        picker.loss(x, VALID, LABELS, keep).item(), mean_of_known(each, weight * keep), rtol=1e-5, atol=0
    )


def test_a_detector_has_the_binary_cross_entropy(tiny):
    detector, x = build(EventDetector, tiny).eval(), torch.randn(2, 3, T)
    truth, weight = event_targets(LABELS, VALID, T)
    p = detector(x, VALID).detach()
    assert p.shape == (2, 1, T)
    each = -torch.where(truth > 0, p, 1 - p).log()[:, 0].numpy()
    torch.testing.assert_close(detector.loss(x, VALID, LABELS).item(), mean_of_known(each, weight), rtol=1e-5, atol=0)


def test_a_classifier_reads_mean_and_maximum_of_the_frames_before_the_padding(tiny):
    """200 samples are 50 frames; those of the padding hold the network's answer to silence."""
    network, x = build(SequenceClassifier, tiny).eval(), torch.randn(2, 3, T)
    context = network._context(network._padded(x, VALID))
    read = [torch.cat([c.mean(dim=0), c.amax(dim=0)]) for c in (context[0, :64], context[1, :50])]
    want = network.head(torch.stack(read)).softmax(dim=1)
    torch.testing.assert_close(network(x, VALID), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(network.loss(x, VALID, LABELS), -want[0, 1].log(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", [PhasePicker, EventDetector, SequenceClassifier])
def test_a_batch_of_which_nothing_is_known_teaches_nothing(tiny, kind):
    """Its loss is 0 and its gradients are numbers: one such batch must not end a run."""
    network = build(kind, tiny).train()
    nowhere = torch.full((2, 1), torch.nan)
    unknown = LABELS._replace(p=nowhere, s=nowhere, group=torch.tensor([-1, -1]))
    loss = network.loss(torch.randn(2, 3, T), VALID, unknown)
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())


def test_frames_are_hidden_in_spans_and_as_many_as_asked_for(tiny, monkeypatch):
    network, seen = build(PhasePicker, tiny, span_mask=0.25, span_frames=8).train(), []
    context = network.backbone.context
    monkeypatch.setattr(network.backbone, "context", lambda f, masked=None: seen.append(masked) or context(f, masked))
    network.loss(torch.randn(4, 3, T), None, Labels(*(torch.cat([x, x]) for x in LABELS))).backward()
    (masked,) = seen
    assert masked.sum(dim=1).tolist() == [16] * 4
    edges = torch.nn.functional.pad(masked.int(), (1, 1)).diff(dim=1)
    assert (edges == 1).sum(dim=1).max() <= 2  # 16 frames in spans of 8
    assert len({tuple(row.tolist()) for row in masked}) > 1
    assert network.backbone.mask_embedding.grad.any()


def test_channels_are_hidden_in_each_window_for_itself(tiny, monkeypatch):
    network, seen = build(PhasePicker, tiny, channel_mask=0.5).train(), []
    context = network.backbone.context
    monkeypatch.setattr(network.backbone, "context", lambda f, masked=None: seen.append(f) or context(f, masked))
    network(torch.randn(4, 3, T))
    hidden = (seen[0] == 0).all(dim=1)
    assert len({tuple(row.tolist()) for row in hidden}) == 4


def test_dropout_takes_whole_channels_of_the_head(tiny):
    network, seen = build(PhasePicker, tiny, dropout=0.5).train(), []
    network.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(torch.randn(4, 3, T))
    zero = seen[0] == 0
    assert torch.equal(zero.any(dim=-1), zero.all(dim=-1))
    assert 0.3 < zero.float().mean() < 0.7


def test_masks_repeat_with_the_seed_of_the_step(tiny):
    network = build(PhasePicker, tiny, span_mask=0.3, channel_mask=0.3, dropout=0.3).train()
    x, out = torch.randn(2, 3, T), []
    for _ in range(2):
        torch.manual_seed(5)
        out.append(network(x))
    assert torch.equal(*out)
