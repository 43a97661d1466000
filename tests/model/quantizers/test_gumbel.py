import math
from dataclasses import replace

import pytest
import torch
from transformers.models.wav2vec2.configuration_wav2vec2 import Wav2Vec2Config
from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2GumbelVectorQuantizer

from model.config import QuantizerConfig
from model.draws import Draws
from model.quantizers import build_quantizer
from model.quantizers.gumbel import GumbelQuantizer
from model.quantizers.interface import code_counts, perplexity, used_fraction
from model.schedule import cosine_schedule

WIDTH, GROUPS, CODES, DIM = 24, 2, 16, 8
CONFIG = QuantizerConfig(num_groups=GROUPS, num_codes=CODES, code_dim=DIM)
CPU = torch.device("cpu")


def pair():
    """Our quantizer and that of transformers with the same weights; ours without its output projection."""
    theirs = Wav2Vec2GumbelVectorQuantizer(
        Wav2Vec2Config(
            conv_dim=(WIDTH,),
            conv_stride=(1,),
            conv_kernel=(1,),
            num_codevector_groups=GROUPS,
            num_codevectors_per_group=CODES,
            codevector_dim=GROUPS * DIM,
        )
    )
    ours = GumbelQuantizer(WIDTH, GROUPS * DIM, CONFIG)
    with torch.no_grad():
        theirs.codevectors.copy_(ours.codebook.reshape(1, GROUPS * CODES, DIM))
        theirs.weight_proj.load_state_dict(ours.logits.state_dict())
        ours.output.weight.copy_(torch.eye(GROUPS * DIM))
        ours.output.bias.zero_()
    return ours, theirs


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_training_is_that_of_transformers(temperature):
    """Same noise: same targets, same perplexity, same gradients of input, logits and codebook."""
    ours, theirs = pair()
    theirs.temperature = temperature
    ours.temperature.fill_(temperature)
    x = torch.randn(3, 11, WIDTH, requires_grad=True)
    counted = torch.rand(3, 11) < 0.7
    torch.manual_seed(5)
    want, want_perplexity = theirs(x, counted)
    torch.manual_seed(5)
    have = ours(x, counted.float(), Draws(CPU))
    torch.testing.assert_close(have.targets, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(perplexity(have.mean_probs).sum(), want_perplexity)

    cotangent = torch.randn_like(want)
    inputs = [x, theirs.weight_proj.weight, theirs.weight_proj.bias, theirs.codevectors]
    want_grads = torch.autograd.grad((want * cotangent).sum() + 3 * want_perplexity, inputs)
    inputs = [x, ours.logits.weight, ours.logits.bias, ours.codebook]
    total = (have.targets * cotangent).sum() + 3 * perplexity(have.mean_probs).sum()
    for a, b in zip(torch.autograd.grad(total, inputs), want_grads, strict=True):
        torch.testing.assert_close(a, b.reshape(a.shape), rtol=1e-3, atol=1e-4)


def test_evaluation_is_that_of_transformers():
    ours, theirs = (m.eval() for m in pair())
    x = torch.randn(3, 11, WIDTH)
    want, want_perplexity = theirs(x, torch.ones(3, 11, dtype=torch.bool))
    have = ours(x, torch.ones(3, 11), Draws(CPU))
    torch.testing.assert_close(have.targets, want)
    torch.testing.assert_close(perplexity(have.counts / 33).sum(), want_perplexity)
    assert (ours(x, torch.ones(3, 11), Draws(CPU)).codes == have.codes).all()


def test_hard_samples_do_not_depend_on_the_temperature():
    quantizer, x = GumbelQuantizer(WIDTH, 32, CONFIG), torch.randn(2, 50, WIDTH)
    codes = []
    for temperature in (2.0, 0.1):
        quantizer.temperature.fill_(temperature)
        codes.append(quantizer(x, torch.ones(2, 50), Draws(CPU, torch.Generator().manual_seed(3))).codes)
    assert (codes[0] == codes[1]).all()


def test_samples_follow_the_softmax_of_the_logits():
    quantizer = GumbelQuantizer(WIDTH, 32, replace(CONFIG, scale_logits=True))
    x = torch.randn(1, 1, WIDTH).expand(1, 20000, WIDTH)
    out = quantizer(x, torch.ones(1, 20000), Draws(CPU))
    probs = (quantizer.logits(x[0, 0]) / WIDTH**0.5).view(GROUPS, CODES).softmax(-1)
    torch.testing.assert_close(out.mean_probs, probs, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(out.counts / 20000, probs, rtol=0, atol=0.02)


def test_distance_logits_choose_the_nearest_code():
    config = replace(CONFIG, code_dim=WIDTH // GROUPS, logits="distance")
    quantizer, x = GumbelQuantizer(WIDTH, 32, config).eval(), torch.randn(2, 40, WIDTH)
    codes = quantizer(x, torch.ones(2, 40), Draws(CPU)).codes
    for group, part in enumerate(x.chunk(GROUPS, dim=-1)):
        nearest = torch.cdist(part.flatten(0, 1), quantizer.codebook[group]).argmin(-1)
        assert (codes[..., group].flatten() == nearest).all()


def test_distance_logits_are_minus_the_squared_distances():
    config = replace(CONFIG, code_dim=WIDTH // GROUPS, logits="distance")
    quantizer, x = GumbelQuantizer(WIDTH, 32, config), 0.3 * torch.randn(1, 1, WIDTH)
    with torch.no_grad():
        quantizer.codebook.mul_(0.3)
    probs = quantizer(x, torch.ones(1, 1), Draws(CPU)).mean_probs
    for group, part in enumerate(x[0, 0].chunk(GROUPS)):
        want = (-(part - quantizer.codebook[group]).square().sum(-1)).softmax(0)
        torch.testing.assert_close(probs[group], want, rtol=1e-4, atol=1e-7)


def test_codes_and_logits_start_as_standard_normal_numbers():
    quantizer = GumbelQuantizer(256, 8, QuantizerConfig())
    for weight in (quantizer.codebook, quantizer.logits.weight):
        assert weight.std().item() == pytest.approx(1, rel=0.02)
        assert weight.mean().item() == pytest.approx(0, abs=0.02)
    assert not quantizer.logits.bias.any()


def test_a_batch_of_nothing_but_padding_has_no_probabilities():
    out = GumbelQuantizer(WIDTH, 32, CONFIG)(torch.randn(2, 3, WIDTH), torch.zeros(2, 3), Draws(CPU))
    assert (out.mean_probs == 0).all()
    assert (out.counts == 0).all()


def test_padding_counts_for_nothing():
    quantizer, x = GumbelQuantizer(WIDTH, 32, CONFIG).eval(), torch.randn(2, 30, WIDTH)
    weight = (torch.arange(30) < torch.tensor([[30], [7]])).float()
    whole, cut = quantizer(x, weight, Draws(CPU)), quantizer(x[:, :7], weight[:, :7], Draws(CPU))
    assert whole.counts.sum(-1).tolist() == [37, 37]
    garbage = quantizer(torch.where(weight[..., None] > 0, x, 1e3), weight, Draws(CPU))
    torch.testing.assert_close(garbage.mean_probs, whole.mean_probs)
    torch.testing.assert_close(garbage.counts, whole.counts)
    assert (cut.codes == whole.codes[:, :7]).all()


@pytest.mark.parametrize("kind", ["gumbel", "ema", "residual", "fsq", "hierarchical", "none"])
def test_every_kind_trains_and_the_target_gradient_reaches_features_and_quantizer(kind, tiny):
    quantizer = build_quantizer(tiny(kind=kind))
    x = torch.randn(4, 32, 32, requires_grad=True)
    weight = (torch.arange(32) < torch.tensor([[32], [32], [20], [8]])).float()
    for _ in range(2):
        out = quantizer(x, weight, Draws(CPU))
        (out.targets * torch.randn_like(out.targets) * weight[..., None]).sum().backward()
    groups = 0 if kind == "none" else 2
    codes = 1 if kind == "none" else 320 if kind == "fsq" else 16
    assert out.targets.shape == (4, 32, 32)
    assert out.codes.shape == (4, 32, groups)
    assert out.mean_probs.shape == out.counts.shape == (groups, codes)
    torch.testing.assert_close(out.mean_probs.sum(-1), torch.ones(groups))
    assert out.counts.sum(-1).tolist() == [92] * groups
    assert x.grad.isfinite().all()
    assert (x.grad[:2].abs().sum(-1) > 0).all()
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("kind", ["ema", "residual"])
def test_nearest_codes_follow_the_frames_and_none_starves(kind, tiny):
    """Frames around 12 far points: the quantiser must find them though all codes start elsewhere."""
    quantizer = build_quantizer(tiny(kind=kind))
    centres = torch.randn(12, 32) * 3 + 10
    for _ in range(60):
        x = centres[torch.randint(12, (4, 64))] + 0.1 * torch.randn(4, 64, 32)
        out = quantizer(x, torch.ones(4, 64), Draws(CPU))
    assert perplexity(out.mean_probs)[0] > 8
    for codebook in quantizer.codebooks:  # a tenth of the mean use, 256 frames over 16 codes, is the least that lives
        assert codebook._codebook.cluster_size.min() >= 0.1 * 256 / 16
    before = quantizer.eval()(x, torch.ones(4, 64), Draws(CPU))
    again = quantizer(x, torch.ones(4, 64), Draws(CPU))
    assert (before.codes == again.codes).all()


def test_residual_levels_reduce_the_error(tiny):
    quantizer = build_quantizer(tiny(kind="residual", code_dim=32))
    for _ in range(40):
        x = torch.randn(8, 64, 32)
        quantizer(x, torch.ones(8, 64), Draws(CPU))
    quantizer.eval()
    first, ids, _ = quantizer.codebooks[0](x)
    second, _, _ = quantizer.codebooks[1](x - first)
    assert (x - first - second).square().mean() < 0.9 * (x - first).square().mean()
    assert (quantizer(x, torch.ones(8, 64), Draws(CPU)).codes[..., 0] == ids).all()


def test_usage_statistics():
    codes = torch.tensor([[[0, 3], [0, 2], [1, 1]]])
    counts = code_counts(codes, torch.tensor([[1.0, 1.0, 0.5]]), 4)
    assert counts.tolist() == [[2, 0.5, 0, 0], [0, 0.5, 1, 1]]
    assert used_fraction(counts) == 5 / 8
    uniform, single = torch.full((1, 8), 1 / 8), torch.eye(8)[:1]
    torch.testing.assert_close(perplexity(torch.cat([uniform, single])), torch.tensor([8.0, 1.0]))


def test_perplexity_counts_rare_codes():
    rare = torch.full((1, 1000), 1e-7, dtype=torch.float64)
    probs = torch.cat([1 - rare.sum(1, keepdim=True), rare], dim=1)
    assert perplexity(probs).item() == pytest.approx(
        math.exp(-sum(p * math.log(p) for p in probs[0].tolist())), rel=1e-9
    )


def test_perplexity_gradient_is_finite_where_a_probability_vanished():
    logits = torch.tensor([[0.0, -1e4, 0.5]], requires_grad=True)
    perplexity(logits.softmax(-1)).sum().backward()
    assert logits.grad.isfinite().all()


def test_gumbel_temperature_is_a_function_of_progress_alone(tiny):
    quantizer = build_quantizer(tiny(kind="hierarchical"))
    for progress, value in [(0.0, 2.0), (0.5, 1.25), (1.0, 0.5), (0.25, 1.25 + 0.75 * math.cos(math.pi / 4))]:
        quantizer.set_progress(progress)
        assert quantizer.fine.temperature.item() == pytest.approx(value)
        assert quantizer.coarse.temperature.item() == pytest.approx(value)
    assert cosine_schedule(2.0, 0.5, 7.0) == 0.5
    assert cosine_schedule(2.0, 0.5, -7.0) == 2.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "fsq", "fsq_levels": (8, 8)}, "64 codes"),
        ({"kind": "hierarchical", "num_groups": 3}, "num_groups=2"),
        ({"logits": "distance", "code_dim": 5}, "must equal encoder.width=32"),
        ({"num_codes": 1}, "num_codes=1"),
    ],
)
def test_contradictions_are_refused(fields, message, tiny):
    with pytest.raises(ValueError, match=message):
        tiny(**fields)
