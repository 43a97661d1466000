"""Networks that are fine-tuned: regularised in training alone, and able to learn eight windows by heart."""

import pytest
import torch

from model.classifier import SequenceClassifier
from model.config import HeadConfig
from model.detector import EventDetector
from model.hub import from_pretrained, save_pretrained
from model.labels import Labels
from model.picker import PhasePicker
from raysys.peers import build_peer

OURS = {"pick": PhasePicker, "detect": EventDetector, "classify": SequenceClassifier}


def quakes(count: int = 8, samples: int = 256) -> tuple[torch.Tensor, Labels]:
    """Noise with a P on Z and a stronger S on N and E; the last two windows are noise alone."""
    x, t = torch.randn(count, 3, samples) * 0.1, torch.arange(samples)
    p = torch.randint(30, 90, (count, 1)).float()
    s = p + 80
    quake = torch.arange(count) < count - 2
    for wave, rows, size in ((p, [0], 1.0), (s, [1, 2], 2.0)):
        on = (t >= wave) * torch.exp(-(t - wave).clamp_min(0) / 20) * torch.sin(t / 2.0)
        x[:, rows] += size * (on * quake[:, None])[:, None]
    p, s = (torch.where(quake[:, None], wave, torch.nan) for wave in (p, s))
    return x, Labels(p, s, torch.empty(count, 0), ~quake, (~quake).long())


def build(tiny, task: str, **head) -> torch.nn.Module:
    return OURS[task](tiny(dropout=0.0), HeadConfig(width=16, **head))


@pytest.mark.parametrize("name", [*OURS, "phasenet", "eqtransformer"])
def test_a_network_learns_eight_windows_by_heart(tiny, name):
    x, labels = quakes()
    network = build(tiny, name) if name in OURS else build_peer(name, 256)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(200 if name == "eqtransformer" else 60):
        loss = network.loss(x, None, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.4 * losses[0]
    network.eval()
    out = network(x)
    if name == "classify":
        assert (out.argmax(dim=1) == labels.group).all()
        return
    event = out[:, 0] if name == "detect" else 1 - out[:, 2]
    assert event[:6].amax(dim=1).min() > event[6:].amax(dim=1).max()
    if name in ("pick", "phasenet"):
        assert ((out[:6, 0].argmax(dim=1) - labels.p[:6, 0]).abs() <= 10).sum() >= 5
        torch.testing.assert_close(out.sum(dim=1), torch.ones(8, 256))


@pytest.mark.parametrize("task", OURS)
@pytest.mark.parametrize("option", [{"dropout": 0.5}, {"span_mask": 0.5}, {"channel_mask": 0.5}])
def test_masks_and_dropout_act_in_training_alone(tiny, task, option):
    x, _ = quakes()
    network = build(tiny, task, **option)
    plain = build(tiny, task)
    plain.load_state_dict(network.state_dict())
    assert torch.equal(network.eval()(x), plain.eval()(x))
    network.train(), plain.train()
    assert torch.equal(plain(x), plain(x))
    assert not torch.equal(network(x), network(x))
    assert not torch.equal(network(x), plain(x))


def test_a_channel_that_is_masked_is_zero_in_the_whole_window_and_the_others_stay(tiny):
    network = build(tiny, "pick", channel_mask=0.5).train()
    seen = []
    network.backbone.context = lambda features, masked=None: seen.append(features) or features[..., :32]
    x = torch.randn(4, 3, 256)
    network._context(x)
    features, kept = network.backbone.features(x), (seen[0] != 0).any(dim=1, keepdim=True)
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(seen[0], features * kept)


def test_without_the_waveform_the_head_sees_frames_alone(tiny):
    x, _ = quakes()
    network = build(tiny, "pick", waveform=False).eval()
    assert network.head[0].in_channels == 32
    network.backbone.context = lambda features, masked=None: torch.zeros(len(features), 64, 32)
    assert torch.equal(network(x)[0], network(x)[7])


@pytest.mark.parametrize("task", OURS)
def test_samples_that_are_not_kept_have_no_say(tiny, task):
    x, labels = quakes()
    network = build(tiny, task).eval()
    keep = torch.rand(8, 256) < 0.5
    half, rest = network.loss(x, None, labels, keep), network.loss(x, None, labels, ~keep)
    whole = network.loss(x, None, labels)
    if task == "classify":
        assert half == whole
    else:
        share = keep.float().mean()
        assert half != whole
        assert torch.isclose(share * half + (1 - share) * rest, whole, rtol=0.02)


def test_windows_without_a_class_have_no_say(tiny):
    x, labels = quakes()
    network = build(tiny, "classify").eval()
    some = labels._replace(group=torch.tensor([0, 1, -1, -1, -1, -1, -1, -1]))
    expected = network.loss(x[:2], None, Labels(*(part[:2] for part in some)))
    torch.testing.assert_close(network.loss(x, None, some), expected)
    assert network.loss(x, None, labels._replace(group=torch.full((8,), -1))) == 0


def test_padding_has_no_say_in_a_class(tiny):
    network, x = build(tiny, "classify").eval(), torch.randn(2, 3, 256) + 3
    garbage = x.clone()
    garbage[1, :, 180:] = 1e5
    valid = torch.tensor([256, 180])
    assert torch.equal(network(x, valid), network(garbage, valid))


@pytest.mark.parametrize("task", OURS)
def test_round_trip(tiny, task, tmp_path):
    x, _ = quakes()
    network = build(tiny, task, waveform=task != "pick").eval()
    again = from_pretrained(save_pretrained(network, tmp_path))
    assert type(again) is type(network)
    assert again.head_config == network.head_config
    assert torch.equal(again(x), network(x))


def test_spans_that_no_window_holds_are_refused_by_their_key(tiny):
    with pytest.raises(ValueError, match=r"head\.span_frames=64 must be below the 64 frames"):
        build(tiny, "pick", span_mask=0.2, span_frames=64)
