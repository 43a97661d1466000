"""SeisBench's networks behind our interface: their order, lengths, amplitudes, and weights as SeisBench stores them."""

import pytest
import torch
import torch.nn.functional as F

from model.labels import Labels, event_targets, pick_targets
from model.preprocess import highpass
from raysys.peers import PhaseNetPicker, build_peer, published


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Returns a function that stores a network as SeisBench's cache holds weights, under the name "mine"."""
    import seisbench
    import seisbench.models as sbm

    monkeypatch.setattr(seisbench, "cache_model_root", tmp_path)
    monkeypatch.setattr(seisbench.models.base.seisbench, "cache_model_root", tmp_path)

    def store(kind: str, **options):
        torch.manual_seed(0)
        network = getattr(sbm, kind)(**options).eval()
        folder = tmp_path / kind.lower()
        folder.mkdir(parents=True)
        network.save(folder / "mine", version_str="1")
        return network

    return store


def test_published_weights_come_out_in_the_order_p_s_noise(stored):
    network, x = stored("PhaseNet", phases="NPS"), torch.randn(2, 3, 3001)
    picker = published("phasenet:mine")
    assert picker.window_samples == 3001
    with torch.no_grad():
        raw = network(network.annotate_batch_pre(x, {}))
        torch.testing.assert_close(picker(x), raw[:, [1, 2, 0]], rtol=1e-3, atol=1e-4)


def test_weights_for_another_rate_are_refused(stored):
    stored("PhaseNet", sampling_rate=50)
    with pytest.raises(ValueError, match="phasenet:mine reads 50 Hz"):
        published("phasenet:mine")


def test_weights_that_are_nowhere_are_refused_in_one_line(monkeypatch):
    import seisbench.models as sbm

    def offline(name: str):
        raise ConnectionError("no such host\nand much more")

    monkeypatch.setattr(sbm.PhaseNet, "from_pretrained", offline)
    with pytest.raises(
        ValueError, match=r"phasenet:nobody: SeisBench does not load these weights .*list_pretrained"
    ) as error:
        published("phasenet:nobody")
    assert "\n" not in str(error.value)


def test_components_are_given_in_the_order_of_the_weights(stored):
    network, x = stored("PhaseNet", phases="PSN", component_order="ENZ"), torch.randn(2, 3, 3001)
    with torch.no_grad():
        raw = network(network.annotate_batch_pre(x.flip(1), {}))
        torch.testing.assert_close(published("phasenet:mine")(x), raw, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("samples", [1000, 2950, 3001, 4096])
def test_phasenet_reads_any_length(samples):
    picker = build_peer("phasenet", 4096).eval()
    assert picker(torch.randn(1, 3, samples)).shape == (1, 3, samples)


def test_eqtransformer_reads_its_own_length_and_says_so():
    picker = build_peer("eqtransformer", 1024).eval()
    assert picker(torch.randn(1, 3, 1024)).shape == (1, 3, 1024)
    with pytest.raises(ValueError, match="windows of 1024 samples, not 1000"):
        picker(torch.randn(1, 3, 1000))


@pytest.mark.parametrize("name", ["phasenet", "eqtransformer"])
def test_the_unit_does_not_matter_and_padding_has_no_say(name):
    picker = build_peer(name, 1024).eval()
    x = torch.randn(2, 3, 1024) + 2
    x[1, 1] *= 0.01  # a ratio of components is kept
    with torch.no_grad():
        torch.testing.assert_close(picker(x), picker(x * 1e-9), rtol=1e-3, atol=1e-4)
        garbage = x.clone()
        garbage[1, :, 700:] = torch.nan
        valid = torch.tensor([1024, 700])
        assert torch.equal(picker(x, valid), picker(garbage, valid))
        assert picker(garbage).isfinite().all()


def test_ratios_of_components_reach_a_network_that_normalises_them_together():
    picker = build_peer("eqtransformer", 1024)
    x = torch.randn(1, 3, 1024) * torch.tensor([1.0, 0.1, 0.01])[:, None]
    seen = picker._prepared(x, None).std(dim=-1)[0]
    assert seen[1] / seen[0] == pytest.approx(0.1, rel=0.1)


def test_a_network_of_ours_has_the_same_face():
    assert isinstance(build_peer("phasenet", 512), PhaseNetPicker)
    assert build_peer("phasenet", 512).window_samples == 512


@pytest.fixture
def lone_p() -> Labels:
    """A P without an S, so that detection is known elsewhere than picks are, and a whole event."""
    p, s = torch.tensor([[200.0], [150.0]]), torch.tensor([[torch.nan], [300.0]])
    return Labels(p, s, torch.empty(2, 0), torch.zeros(2, dtype=torch.bool), torch.tensor([-1, -1]))


def test_eqtransformer_has_the_loss_of_mousavi_et_al(lone_p):
    """0.05 of detection, 0.4 of P and 0.55 of S, each a mean over what is known of it and is kept."""
    picker, x = build_peer("eqtransformer", 512).eval(), torch.randn(2, 3, 512)
    keep, valid = torch.rand(2, 512) < 0.7, torch.tensor([512, 450])
    picker.network.conv_d.weight.data *= 100  # or its detection is one half everywhere, and any mean of it the same
    (picks, known), (event, sure) = pick_targets(lone_p, valid, 512, 20.0), event_targets(lone_p, valid, 512)
    assert not torch.equal(known, sure)
    with torch.no_grad():
        p, s, none = picker(x, valid).unbind(dim=1)
        want = 0.0
        for share, out, target, of in (
            (0.05, 1 - none, event[:, 0], sure),
            (0.40, p, picks[:, 0], known),
            (0.55, s, picks[:, 1], known),
        ):
            each = F.binary_cross_entropy(out, target, reduction="none")
            want += share * each[(of * keep) > 0].mean()
        torch.testing.assert_close(picker.loss(x, valid, lone_p, keep), want, rtol=1e-4, atol=1e-6)


def test_phasenet_has_the_loss_of_our_picker(lone_p):
    picker, x = build_peer("phasenet", 512).eval(), torch.randn(2, 3, 512)
    keep, valid = torch.rand(2, 512) < 0.7, torch.tensor([512, 450])
    targets, known = pick_targets(lone_p, valid, 512, 20.0)
    with torch.no_grad():
        each = -(targets * picker(x, valid).log()).sum(dim=1)
        want = each[(known * keep) > 0].mean()
        torch.testing.assert_close(picker.loss(x, valid, lone_p, keep), want, rtol=1e-4, atol=1e-6)


def test_published_eqtransformers_give_p_s_and_no_detection(stored):
    network, x = stored("EQTransformer", in_samples=512), torch.randn(2, 3, 512)
    picker = published("eqtransformer:mine")
    assert picker.window_samples == 512
    assert not picker.training
    with torch.no_grad():
        detection, p, s = network(network.annotate_batch_pre(x, {}))
        torch.testing.assert_close(picker(x), torch.stack([p, s, 1 - detection], dim=1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["phasenet", "eqtransformer"])
def test_a_peer_sees_what_the_highpass_leaves(name):
    t = torch.arange(1024) / 100
    wave, swell = torch.sin(2 * torch.pi * 8 * t).expand(1, 3, -1), 10 * torch.sin(2 * torch.pi * 0.1 * t)
    torch.manual_seed(0)
    with_it, without = build_peer(name, 1024, 1.0).eval(), build_peer(name, 1024).eval()
    assert (with_it.highpass_hz, without.highpass_hz) == (1.0, 0.0)
    seen = with_it._prepared(wave + swell, torch.tensor([900]))
    assert seen[..., 900:].abs().max() < 1e-5
    inner = seen[0, 0, 100:800]
    correlation = torch.corrcoef(torch.stack([inner, wave[0, 0, 100:800]]))[0, 1]
    assert correlation > 0.95
    plain = without._prepared(wave + swell, torch.tensor([900]))[0, 0, 100:800]
    assert torch.corrcoef(torch.stack([plain, wave[0, 0, 100:800]]))[0, 1] < 0.2
    expected = highpass(wave - wave.mean(dim=-1, keepdim=True), torch.ones(1, 1, 1, dtype=torch.bool), 1.0)
    whole, expected = (x[..., 20:-20] for x in (with_it._prepared(wave, None), expected))  # EQTransformer's has a taper
    torch.testing.assert_close(whole / whole.std(), expected / expected.std(), rtol=1e-2, atol=1e-2)


def test_a_configuration_says_the_highpass_of_a_peer():
    from raysys.networks import build_network
    from raysys.presets import PRESETS, finetuning

    config = finetuning(PRESETS["smoke"](), "pick", "phasenet").override({"model.highpass_hz": 2.0})
    assert build_network(config).highpass_hz == 2.0
