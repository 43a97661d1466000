import math

import pytest
import torch

from model.config import MaskConfig
from model.contrastive import diversity_loss
from model.quantizer import perplexity

KINDS = ["gumbel", "ema", "residual", "fsq", "hierarchical", "none"]
NEGATIVES = ["row", "expected", "pool", "mixed", "hard", "queue"]


def batch(num_windows=4):
    """Windows that can be told apart frame by frame: sums of sines with changing frequency."""
    time = torch.arange(256) / 256
    rate = torch.rand(num_windows, 3, 1) * 60 + 10
    return torch.sin(2 * torch.pi * rate * time**2) + 0.3 * torch.randn(num_windows, 3, 256)


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


def collapsed(net):
    """Makes every frame take code 0 of each group."""
    with torch.no_grad():
        net.quantizer.logits.weight.zero_()
        net.quantizer.logits.bias.view(2, -1)[:, 0] = 1e4
    return net


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


def test_number_of_negatives_can_be_lowered(pretrain):
    net = pretrain({"num_negatives": 40}, dropout=0.0).eval()
    many = net(batch(), window_id=torch.arange(4)).contrastive
    net.num_negatives.fill_(5)
    few = net(batch(), window_id=torch.arange(4)).contrastive
    assert few < many - 1


def test_codes_and_features(pretrain):
    net, x = pretrain(kind="ema"), batch()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    codes = net.codes(x)
    assert codes.shape == (4, 64, 2)
    assert all((v == state[k]).all() for k, v in net.state_dict().items())
    assert net.quantizer.training
    features = net.eval().encode(x)
    assert features.shape == (4, 64, 32)
    torch.testing.assert_close(net.encode(1e-9 * x), features, rtol=1e-3, atol=1e-3)


def test_evaluation_reports_hard_codes(pretrain):
    net, x = pretrain({"frames": "all"}).eval(), batch()
    losses = net(x)
    counts = torch.stack([net.codes(x)[..., g].flatten().bincount(minlength=16) for g in range(2)])
    assert (losses.code_counts == counts).all()
    torch.testing.assert_close(losses.perplexity, perplexity(counts / 256))
    soft = diversity_loss(counts / 256, "linear")
    assert losses.diversity != soft  # the loss keeps the soft distribution


def test_queue_remembers_first_in_first_out(pretrain):
    net = pretrain({"negatives": "queue", "queue_frames": 96, "pool_frames": 64})
    before = net.queue.targets.clone()
    net(batch())
    assert (net.queue.targets[:64] != before[:64]).any(1).all()
    assert (net.queue.targets[64:] == before[64:]).all()
    assert (net.queue.ids[:64] >= 0).all()
    net(batch())
    assert net.queue.next == 128 % 96
    assert (net.queue.targets[64:] != before[64:]).any(1).all()
    remembered = net.queue.targets.clone()
    net.eval()(batch())
    assert (net.queue.targets == remembered).all()


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
            net.temperature.fill_(tau)
            net.num_negatives.fill_(num)
            net.diversity_lambda.fill_(weight)
            losses = step(x)
            losses.total.backward()
            assert losses.temperature == torch.tensor(tau)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before
