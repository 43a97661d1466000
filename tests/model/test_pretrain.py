import math

import pytest
import torch

from model import comparison
from model.config import MaskConfig
from model.contrastive import diversity_loss
from model.preprocess import standardize
from model.quantizers.interface import perplexity
from tests.model.windows import batch, collapsed

KINDS = ["gumbel", "ema", "residual", "fsq", "hierarchical", "none"]
NEGATIVES = ["row", "expected", "pool", "mixed", "hard", "queue"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_every_choice_trains_every_parameter(pretrain, kind, negatives):
    net = pretrain({"negatives": negatives, "pool_frames": 64, "queue_frames": 128}, kind=kind)
    losses = net(batch(), num_valid=torch.tensor([256, 256, 200, 60]))
    losses.total.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert net.backbone.encoder.convs[0].weight.grad.abs().max() > 0
    parts = losses.contrastive + net.diversity_lambda * losses.diversity + losses.auxiliary
    torch.testing.assert_close(losses.total.detach(), parts)
    assert losses.perplexity.shape == (0 if kind == "none" else 2,)


@pytest.mark.parametrize(
    "options",
    [
        {"similarity": "dot"},
        {"similarity": "l2"},
        {"diversity": "entropy"},
        {"frames": "all"},
        {"temperature_mode": "learned"},
    ],
)
def test_other_options_train(pretrain, options):
    net = pretrain(options)
    net(batch()).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_compiled_parts_are_one_graph_each_and_change_no_gradient(pretrain):
    net, x, ids = pretrain().eval(), batch(), torch.arange(4)
    plain = torch.autograd.grad(net(x, window_id=ids).total, list(net.parameters()))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    net.compile_parts(backend="aot_eager")
    compiled = torch.autograd.grad(net(x, window_id=ids).total, list(net.parameters()))
    for ours, theirs in zip(compiled, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    levels = len(net.backbone.unet.down) + 1
    # The rest: waveform, encoder, padding, masked features, input, last norm, prediction, quantizer, comparison, objective.
    poolings, rest = 2 * (levels - 1), 10
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == levels + poolings + rest
    assert not torch._dynamo.utils.counters["graph_break"]


def test_compiled_training_steps_are_plain_ones_also_where_they_change_what_they_have_read(pretrain):
    """That is the memory bank, with its targets and their codes."""
    found = []
    for backend in (None, "aot_eager_decomp_partition"):  # which keeps what inductor keeps
        torch.manual_seed(5)
        net = pretrain({"negatives": "queue", "queue_frames": 96, "pool_frames": 64}, dropout=0.0)
        if backend:
            torch._dynamo.reset()
            net.compile_parts(backend=backend)
        for _ in range(2):
            total = net(batch(), window_id=torch.arange(4)).total
            total.backward()
        found.append([total.detach(), *(p.grad for p in net.parameters() if p.grad is not None)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_overfits_one_batch(pretrain):
    """The network learns to tell frames apart, with a living codebook and far above chance in the tie-aware score."""
    net, x = pretrain(dropout=0.0), batch(4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for step in range(120):
        net.set_schedule(step / 120)
        losses = net(x)
        optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    assert losses.contrastive < 0.5 * math.log(21)
    assert losses.perplexity.min() > 5
    net.eval()
    score, frames = net.top1_tie(x, torch.arange(4))
    assert score.sum() / frames.sum() > 10 / 101


def test_at_the_start_it_guesses(pretrain):
    """An untrained context picks one of the frames that were drawn: nearly all 31 others, in windows this short."""
    scores = []
    for seed in range(10):
        torch.manual_seed(seed)
        net = pretrain(num_codes=64).eval()
        score, frames = net.top1_tie(batch(8), torch.arange(8))
        scores.append((score.sum() / frames.sum()).item())
    assert sum(scores) / len(scores) == pytest.approx(1 / 32, abs=0.006)


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("num_codes", [0, 2])
def test_a_context_that_knows_nothing_is_one_of_k_plus_one(pretrain, negatives, num_codes):
    """Weights of all negatives sum to K, also of an odd K: the loss of equal scores is log(K + 1), less with equal codes."""
    kind = {"kind": "gumbel", "num_codes": num_codes} if num_codes else {"kind": "none"}
    net = pretrain({"negatives": negatives, "num_negatives": 21, "pool_frames": 64, "queue_frames": 48}, **kind)
    torch.nn.init.zeros_(net.head.weight)
    torch.nn.init.zeros_(net.head.bias)
    x = batch()
    x[1] = 2.0
    for _ in range(2):  # the second time with a memory bank that this batch has filled
        losses = net(x, num_valid=torch.tensor([256, 256, 256, 200]))
    assert losses.accuracy == pytest.approx(1)
    if num_codes == 0:
        assert losses.contrastive == pytest.approx(math.log(22), rel=1e-5)
    elif negatives == "hard":
        assert losses.contrastive <= math.log(22) + 1e-5
    else:  # of four pairs of codes some are the positive's
        assert math.log(22 * 0.4) < losses.contrastive < math.log(22 * 0.95)


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_negatives_never_have_the_code_of_the_positive(pretrain, negatives):
    """With one code for all frames nothing is left, in the window, in the pool and in the memory bank."""
    net = collapsed(pretrain({"negatives": negatives, "pool_frames": 64, "queue_frames": 64}))
    for _ in range(2):
        losses = net(batch())
    assert losses.contrastive == 0


def test_dead_windows_weigh_nothing_whatever_weight_they_are_given(pretrain):
    net, x, ids = pretrain().eval(), batch(), torch.arange(4)
    x[1], x[2] = 0.0, 7.5
    some = [net(x, window_id=ids), net(x, window_weight=torch.ones(4), window_id=ids)]
    live = net(x[::3], window_id=ids[::3])
    for name in ("total", "contrastive", "accuracy", "diversity", "perplexity", "code_counts"):
        for losses in some:
            torch.testing.assert_close(getattr(losses, name), getattr(live, name))
    weighted = net(x, window_weight=torch.tensor([2.0, 5.0, 5.0, 1.0]), window_id=ids)
    one, other = (net(x[i : i + 1], window_id=ids[i : i + 1]) for i in (0, 3))
    torch.testing.assert_close(weighted.contrastive, (2 * one.contrastive + other.contrastive) / 3)
    torch.testing.assert_close(weighted.code_counts, 2 * one.code_counts + other.code_counts)


def test_a_batch_without_signal_changes_nothing(pretrain):
    net = pretrain({"diversity_lambda": 0.0})
    losses = net(torch.ones(2, 3, 256))
    losses.total.backward()
    assert losses.total == 0
    assert all(not p.grad.any() for p in net.parameters())


def test_a_frame_alone_in_its_window_does_not_count(pretrain):
    """It has nothing to be told from: its loss of 0 would dilute that of the others."""
    net, x, ids = pretrain(mask=MaskConfig(span_frames=1, ratio=0.5)).eval(), batch(), torch.arange(4)
    masked = [net(x[:1], torch.tensor([n]), window_id=ids[:1]).code_counts[0].sum() for n in range(4, 40, 4)]
    length = 4 + 4 * masked.index(1)
    both = net(x[:2], torch.tensor([length, 256]), window_id=ids[:2])
    torch.testing.assert_close(both.contrastive, net(x[1:2], window_id=ids[1:2]).contrastive)


@pytest.mark.parametrize("kind", ["gumbel", "hierarchical"])
def test_a_frame_is_real_if_its_first_sample_is(pretrain, kind):
    """150 samples reach into frame 37, 200 end with frame 49, 5 reach into frame 1."""
    net = pretrain({"frames": "all"}, kind=kind)
    counts = net(batch(), num_valid=torch.tensor([256, 150, 200, 5])).code_counts
    assert counts.sum(-1).tolist() == [64 + 38 + 50 + 2] * 2


def test_masked_frames_count_wherever_the_quantizer_sees_them_all(pretrain):
    """round(0.65 * 64) frames of a window; the hierarchical quantizer counts the coarse code of a frame too."""
    for kind in ("gumbel", "hierarchical"):
        losses = pretrain(kind=kind)(batch())
        assert losses.code_counts.sum(-1).tolist() == [4 * 42] * 2
        assert losses.mask_ratio == pytest.approx(42 / 64)
        assert pretrain(kind=kind)(batch(), torch.tensor([60, 90, 256, 4])).mask_ratio == losses.mask_ratio


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_collapsed_codebook_looks_perfect_to_loss_and_accuracy(pretrain, mode):
    losses = getattr(collapsed(pretrain()), mode)()(batch())
    assert losses.contrastive == 0
    assert losses.accuracy == pytest.approx(1)
    assert losses.perplexity.tolist() == pytest.approx([1, 1], abs=1e-4)
    assert losses.used_fraction == 2 / 32
    assert losses.diversity == pytest.approx(30 / 32, abs=1e-4)


def test_collapsed_codebook_gets_exactly_chance_in_top1_tie(pretrain):
    score, frames = collapsed(pretrain()).eval().top1_tie(batch(), torch.arange(4))
    assert frames.tolist() == [32] * 4
    torch.testing.assert_close(score / frames, torch.full((4,), 1 / 101))


def test_top1_tie_is_one_task_for_every_mask_and_loss(pretrain):
    one = pretrain().eval()
    other = pretrain(
        {"num_negatives": 3, "temperature": 0.4, "negatives": "pool"}, mask=MaskConfig(ratio=0.3, span_frames=2)
    ).eval()
    other.load_state_dict(one.state_dict())
    x, ids, num_valid = batch(), torch.arange(4), torch.tensor([256, 256, 150, 60])
    for a, b in zip(one.top1_tie(x, ids, num_valid), other.top1_tie(x, ids, num_valid), strict=True):
        assert torch.equal(a, b)
    garbage = x.clone()
    garbage[2, :, 150:], garbage[3, :, 60:] = 9.0, -9.0
    score, frames = one.top1_tie(x, ids, num_valid)
    assert torch.equal(one.top1_tie(garbage, ids, num_valid)[0], score)
    assert frames[0] == frames[1] == 32
    assert 0 < frames[3] < frames[2] < 32
    assert (score <= frames).all()


def test_top1_tie_refuses_training_mode(pretrain):
    with pytest.raises(ValueError, match="eval"):
        pretrain()(batch()) and pretrain().top1_tie(batch(), torch.arange(4))


def test_validation_depends_on_the_window_alone(pretrain):
    """Alone, in another batch, in another order: same masks, same negatives, same numbers."""
    net, x, ids = pretrain().eval(), batch(), torch.tensor([3, 1000, 7, 2**35])
    together = net(x, window_id=ids)
    alone = [net(x[i : i + 1], window_id=ids[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together.contrastive, torch.stack([a.contrastive for a in alone]).mean())
    torch.testing.assert_close(together.code_counts, sum(a.code_counts for a in alone))
    score, _ = net.top1_tie(x, ids)
    swapped, _ = net.top1_tie(x.flip(0), ids.flip(0))
    torch.testing.assert_close(score, swapped.flip(0))


def test_a_generator_repeats_a_step(pretrain):
    net, x = pretrain(dropout=0.0), batch()
    first, again, other = (net(x, generator=torch.Generator().manual_seed(s)).total for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_padding_and_amplitude_do_not_matter(pretrain):
    net, x = pretrain().eval(), batch()
    num_valid, ids = torch.tensor([256, 256, 150, 90]), torch.arange(4)
    other = 1e-8 * x + 3e-9
    for row, n in enumerate(num_valid):
        other[row, :, n:] = 1.0
    for a, b in zip(net(x, num_valid, window_id=ids), net(other, num_valid, window_id=ids), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    counts = net(x, num_valid, window_id=ids).code_counts.sum(-1)
    assert counts[0] == counts[1] < net(x, window_id=ids).code_counts.sum(-1)[0]


def test_window_weights_weigh(pretrain):
    net, x, ids = pretrain().eval(), batch(), torch.arange(4)
    some = net(x, window_weight=torch.tensor([1.0, 0.0, 1.0, 0.0]), window_id=ids)
    pair = net(x[::2], window_id=ids[::2])
    for name in ("contrastive", "accuracy", "diversity", "perplexity", "code_counts"):
        torch.testing.assert_close(getattr(some, name), getattr(pair, name))


def test_targets_are_not_detached(pretrain):
    """With the diversity off, the contrastive loss alone still trains quantizer and encoder through the targets."""
    net = pretrain({"diversity_lambda": 0.0})
    net.head.weight.requires_grad_(False)
    net.backbone.project.weight.requires_grad_(False)
    with torch.no_grad():
        net.backbone.project.weight.zero_()  # the context no longer knows the encoder
    net(batch()).total.backward()
    assert net.quantizer.logits.weight.grad.abs().max() > 0
    assert net.quantizer.codebook.grad.abs().max() > 0
    assert net.backbone.encoder.convs[0].weight.grad.abs().max() > 0


def test_schedules_are_functions_of_progress(pretrain):
    net = pretrain({"temperature_mode": "annealed", "temperature": 0.5, "temperature_end": 0.1})
    for progress, tau, gumbel in [(1.0, 0.1, 0.5), (0.0, 0.5, 2.0), (0.5, 0.3, 1.25)]:
        net.set_schedule(progress)
        assert net(batch()).temperature.item() == pytest.approx(tau)
        assert net.quantizer.temperature.item() == pytest.approx(gumbel)


def test_only_an_annealed_temperature_follows_the_schedule(pretrain):
    net = pretrain({"temperature": 0.5, "temperature_end": 0.1})
    net.set_schedule(0.7)
    assert net(batch()).temperature == 0.5


@pytest.mark.parametrize(("start", "used"), [(0.3, 0.3), (0.001, 0.02), (7.0, 1.0)])
def test_a_learned_temperature_starts_as_configured_and_stays_in_bounds(pretrain, start, used):
    net = pretrain({"temperature_mode": "learned", "temperature": start})
    assert net(batch()).temperature.item() == pytest.approx(used)


def test_a_learned_temperature_out_of_bounds_finds_its_way_back():
    """Gradients that would lead further out are stopped, those that lead back are not."""
    x = torch.tensor([0.001, 0.001, 0.3, 7.0, 7.0], requires_grad=True)
    bounded = comparison._Within.apply(x, 0.02, 1.0)
    torch.testing.assert_close(bounded, torch.tensor([0.02, 0.02, 0.3, 1.0, 1.0]))
    (bounded * torch.tensor([1.0, -2.0, 3.0, 4.0, -5.0])).sum().backward()
    assert x.grad.tolist() == [0, -2, 3, 4, 0]


@pytest.mark.parametrize("use", ["features", "codes", "encode", "__call__"])
def test_a_length_that_the_network_cannot_fold_is_named(pretrain, use):
    with pytest.raises(ValueError, match="250 samples is not a multiple of 64: pad it with zeros"):
        getattr(pretrain().eval(), use)(torch.randn(1, 3, 250))


def test_fixed_and_learned_temperatures_start_with_the_same_loss(pretrain):
    x, ids, found = batch(), torch.arange(4), []
    for loss in ({"temperature": 0.2}, {"temperature": 0.2, "temperature_mode": "learned"}):
        torch.manual_seed(3)
        found.append(pretrain(loss).eval()(x, window_id=ids).contrastive)
    torch.testing.assert_close(*found)


def test_number_of_negatives_can_be_lowered(pretrain):
    net = pretrain({"num_negatives": 40}, dropout=0.0).eval()
    many = net(batch(), window_id=torch.arange(4)).contrastive
    net.comparison.num_negatives.fill_(5)
    few = net(batch(), window_id=torch.arange(4)).contrastive
    assert few < many - 1


def test_codes_and_features(pretrain):
    net, x = pretrain(kind="ema"), batch()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    codes = net.codes(x)
    assert codes.shape == (4, 64, 2)
    assert all((v == state[k]).all() for k, v in net.state_dict().items())
    assert net.quantizer.training
    context = net.eval().encode(x)
    assert context.shape == (4, 64, 32)
    torch.testing.assert_close(net.encode(1e-9 * x), context, rtol=1e-3, atol=1e-3)
    features = net.features(x)
    assert features.shape == (4, 64, 64)
    torch.testing.assert_close(features[..., 32:], context)
    assert (net.features(x + 1e-3)[..., :32] - features[..., :32]).norm() < 0.01 * features.norm()
    assert torch.equal(features[..., :32], net.backbone.encoder(standardize(x)))


def test_codes_are_the_most_probable_ones_in_every_mode(pretrain):
    net, x = pretrain(), batch()
    logits = net.quantizer.logits(net.backbone.encoder(standardize(x))).unflatten(-1, (2, 16))
    for mode in (True, False):
        net.quantizer.train(mode)
        assert torch.equal(net.codes(x), logits.argmax(-1))
        assert net.quantizer.training == mode


@pytest.mark.parametrize("name", ["encode", "features", "codes"])
def test_what_a_reader_gets_knows_nothing_of_the_padding(pretrain, name):
    net, x = pretrain().eval(), batch()
    garbage, num_valid = x.clone(), torch.tensor([256, 150, 256, 60])
    garbage[1, :, 150:], garbage[3, :, 60:] = 9.0, -9.0
    read = getattr(net, name)
    assert torch.equal(read(garbage, num_valid), read(x, num_valid))


def test_evaluation_reports_hard_codes(pretrain):
    net, x = pretrain({"frames": "all"}).eval(), batch()
    losses = net(x)
    counts = torch.stack([net.codes(x)[..., g].flatten().bincount(minlength=16) for g in range(2)])
    assert (losses.code_counts == counts).all()
    torch.testing.assert_close(losses.perplexity, perplexity(counts / 256))
    soft = diversity_loss(counts / 256, "linear")
    assert losses.diversity != soft  # the loss keeps the soft distribution


def test_wav2vec2_masks_have_rows_of_different_length(pretrain):
    net = pretrain(mask=MaskConfig(mode="wav2vec2", span_frames=4, ratio=0.65))
    losses = net(batch(8))
    losses.total.backward()
    masked = losses.code_counts.sum(-1)
    assert masked[0] == masked[1] == round(losses.mask_ratio.item() * 64 * 8)
    assert losses.mask_ratio < 0.6


def test_bfloat16_autocast_keeps_the_loss_in_float32(pretrain):
    net, x = pretrain(dropout=0.0).eval(), batch()
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x, window_id=torch.arange(4))
    assert low.total.dtype == torch.float32
    torch.testing.assert_close(low.contrastive, net(x, window_id=torch.arange(4)).contrastive, rtol=0.1, atol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        total = net.train()(x).total
    total.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("kind", ["gumbel", "hierarchical", "fsq"])
def test_compiles_as_one_graph_and_settings_recompile_nothing(pretrain, kind):
    torch._dynamo.reset()
    net = pretrain(kind=kind)
    step = torch.compile(net, fullgraph=True, dynamic=False, backend="eager")
    x = batch()
    step(x).total.backward()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for progress, tau, num, weight in [(0.3, 0.2, 7, 0.0), (1.0, 0.05, 13, 3.0)]:
            net.set_schedule(progress)
            net.comparison.temperature.fill_(tau)
            net.comparison.num_negatives.fill_(num)
            net.diversity_lambda.fill_(weight)
            losses = step(x)
            losses.total.backward()
            assert losses.temperature == torch.tensor(tau)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before
