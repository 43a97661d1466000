"""The loss against its definition, written out with every negative in memory, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import Wav2Vec2ForPreTraining

from model import contrastive
from model.contrastive import Negatives
from model.ops.contrast.window import WindowContrast

BATCH, FRAMES, WIDTH, NEGATIVES, TAU = 2, 13, 6, 9, 0.1


def problem(num_ids=5):
    context, targets = (torch.randn(BATCH, FRAMES, WIDTH, dtype=torch.float64).requires_grad_() for _ in range(2))
    ids = torch.randint(num_ids, (BATCH, FRAMES))
    return context, targets, ids, torch.rand(BATCH, FRAMES, NEGATIVES), torch.tensor([FRAMES, 8])


def dense(context, targets, ids, uniform, count, similarity="cosine", num_negatives=NEGATIVES, tau=TAU):
    """Our loss and accuracy (B, M)."""
    c, t = contrastive.normalize(context, similarity), contrastive.normalize(targets, similarity)
    weights = contrastive.drawn_weights(uniform, count, torch.tensor(num_negatives))
    weights = weights * ~contrastive.same_code(ids, ids)
    negatives = Negatives(contrastive.cross_scores(c, t, similarity, tau), weights)
    return contrastive.info_nce(contrastive.pair_scores(c, t, similarity, tau), negatives)


def in_window(context, targets, ids, uniform, count, similarity="cosine", num_negatives=NEGATIVES, tau=TAU):
    """The same by `WindowContrast`."""
    c, t = contrastive.normalize(context, similarity), contrastive.normalize(targets, similarity)
    weights = contrastive.drawn_weights(uniform, count, torch.tensor(num_negatives))
    weights = weights * ~contrastive.same_code(ids, ids)
    return WindowContrast.apply(c, t, torch.as_tensor(tau, dtype=c.dtype), weights, c.dtype)


def similarity_of(a, b, kind):
    if kind == "cosine":
        return F.cosine_similarity(a, b, dim=0)
    return a @ b if kind == "dot" else -((a - b) ** 2).sum()


def written_out(context, targets, ids, uniform, count, similarity="cosine", num_negatives=NEGATIVES, tau=TAU):
    """Loss and accuracy of every valid anchor, one at a time, as the papers write them."""
    losses, right = {}, {}
    for b in range(BATCH):
        num_valid = int(count[b])
        for i in range(num_valid):
            logits = [similarity_of(context[b, i], targets[b, i], similarity)]
            for k in range(num_negatives):
                j = int(uniform[b, i, k] * (num_valid - 1))
                j += j >= i
                if ids[b, j] != ids[b, i]:
                    logits.append(similarity_of(context[b, i], targets[b, j], similarity))
            logits = torch.stack(logits) / tau
            losses[b, i] = F.cross_entropy(logits, torch.tensor(0))
            right[b, i] = bool((logits[1:] <= logits[0]).all())
    return losses, right


@pytest.mark.parametrize(
    ("way", "similarity"),
    [(dense, "cosine"), (dense, "dot"), (dense, "l2"), (in_window, "cosine"), (in_window, "dot")],
)
@pytest.mark.parametrize("num_ids", [2, 5, 1000])
@pytest.mark.parametrize("num_negatives", [3, NEGATIVES])
def test_loss_and_gradients_are_those_of_the_definition(way, similarity, num_ids, num_negatives):
    args = problem(num_ids)
    loss, right = way(*args, similarity=similarity, num_negatives=num_negatives)
    want, want_right = written_out(*args, similarity=similarity, num_negatives=num_negatives)
    scale = torch.rand(BATCH, FRAMES, dtype=torch.float64)
    for key, value in want.items():
        assert abs(loss[key] - value) <= 1e-10
        assert right[key] == want_right[key]
    have = torch.autograd.grad(sum(loss[key] * scale[key] for key in want), args[:2])
    expected = torch.autograd.grad(sum(want[key] * scale[key] for key in want), args[:2])
    for a, b in zip(have, expected, strict=True):
        assert (a - b).norm() <= 1e-10 * b.norm()


def test_a_learned_temperature_gets_its_gradient():
    context, targets, ids, uniform, count = problem()
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    losses = [way(context, targets, ids, uniform, count, tau=tau)[0] for way in (dense, in_window)]
    scale = torch.rand(BATCH, FRAMES, dtype=torch.float64)
    want, have = (torch.autograd.grad((loss * scale).sum(), tau)[0] for loss in losses)
    assert want != 0
    torch.testing.assert_close(have, want, rtol=1e-10, atol=0)


def test_bfloat16_shares_cost_no_more_than_their_rounding():
    """Gradients of contexts in bfloat16, against those of the same numbers in float64."""
    context, targets, ids, uniform, count = problem()
    found = []
    for kept in (torch.float64, torch.bfloat16):
        c, t = (x.detach().to(kept).double().requires_grad_() for x in (context.bfloat16(), targets.bfloat16()))
        weights = contrastive.drawn_weights(uniform, count, torch.tensor(NEGATIVES)) * ~contrastive.same_code(ids, ids)
        normal = (contrastive.normalize(x, "cosine") for x in (c, t))
        loss, _ = WindowContrast.apply(*normal, torch.tensor(TAU), weights, kept)
        found.append([loss, *torch.autograd.grad(loss.sum(), (c, t))])
    for exact, rounded in zip(*found, strict=True):
        assert (rounded - exact).norm() < 2**-7 * exact.norm()
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("way", [dense, in_window])
def test_low_temperature_does_not_overflow_in_float32(way):
    context, targets, ids, uniform, count = problem()
    args = (context.float().detach().requires_grad_(), targets.float().detach().requires_grad_(), ids, uniform, count)
    loss, _ = way(*args, tau=0.005)
    want, _ = way(*problem_double(args), tau=0.005)
    torch.testing.assert_close(loss.double(), want, rtol=1e-4, atol=1e-4)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss.sum(), args[:2]))


def problem_double(args):
    return (args[0].detach().double(), args[1].detach().double(), *args[2:])


def test_logits_are_those_of_transformers():
    context, targets = torch.randn(BATCH, FRAMES, WIDTH), torch.randn(BATCH, FRAMES, WIDTH)
    index = torch.randint(FRAMES, (NEGATIVES, BATCH, FRAMES))
    negatives = torch.stack([torch.stack([targets[b, i[b]] for b in range(BATCH)]) for i in index])
    want = Wav2Vec2ForPreTraining.compute_contrastive_logits(targets[None], negatives, context, TAU)
    c, t = contrastive.normalize(context, "cosine"), contrastive.normalize(targets, "cosine")
    torch.testing.assert_close(contrastive.pair_scores(c, t, "cosine", TAU), want[0])
    scores = contrastive.cross_scores(c, t, "cosine", TAU)
    for row, i in zip(want[1:], index, strict=True):
        torch.testing.assert_close(scores.gather(2, i[..., None])[..., 0], row)


def test_drawn_negatives_are_the_other_valid_frames_equally_often():
    count = torch.tensor([FRAMES, 4, 1, 0])
    weights = contrastive.drawn_weights(torch.rand(4, FRAMES, 40000), count, torch.tensor(30000))
    for row, num_valid in zip(weights, count.tolist(), strict=True):
        assert (row.diagonal()[:num_valid] == 0).all()
        assert (row[:num_valid, num_valid:] == 0).all()
        if num_valid < 2:
            assert (row == 0).all()
            continue
        assert (row.sum(1) == 30000).all()
        share = row[:num_valid, :num_valid][~torch.eye(num_valid, dtype=torch.bool)] / 30000
        assert (share * (num_valid - 1) - 1).abs().max() < 0.1


@pytest.mark.parametrize("most", [7, 255, 256])
def test_drawn_weights_count_every_draw(most):
    count = torch.tensor([9, 2, 8, 0])
    uniform = torch.rand(4, 9, most, generator=torch.Generator().manual_seed(0))
    weights = contrastive.drawn_weights(uniform, count, torch.tensor(most))
    for row, draws, num_valid in zip(weights, uniform, count.tolist(), strict=True):
        for anchor in range(num_valid):
            others = torch.tensor([frame for frame in range(num_valid) if frame != anchor])
            drawn = others[(draws[anchor] * len(others)).long()]
            assert torch.equal(row[anchor], torch.bincount(drawn, minlength=9).float())


def test_expected_weights_are_the_mean_of_the_draws():
    count = torch.tensor([FRAMES, 5])
    drawn = contrastive.drawn_weights(torch.rand(2, FRAMES, 50000), count, torch.tensor(50000)) / 50000 * 7
    expected = contrastive.expected_weights(count, FRAMES, torch.tensor(7))
    for b, num_valid in enumerate(count.tolist()):
        torch.testing.assert_close(expected[b, :num_valid], drawn[b, :num_valid], rtol=0, atol=0.05)


def test_expected_weights_are_k_over_the_other_frames():
    weights = contrastive.expected_weights(torch.tensor([4, 2, 1]), 4, torch.tensor(6))
    assert weights[0].tolist() == [[0, 2, 2, 2], [2, 0, 2, 2], [2, 2, 0, 2], [2, 2, 2, 0]]
    assert weights[1, :2].tolist() == [[0, 6, 0, 0], [6, 0, 0, 0]]
    assert weights[2, 0].tolist() == [0, 0, 0, 0]


def test_similarities_are_computed_in_float32_at_least():
    for given, kept in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64,) * 2):
        for similarity in ("cosine", "dot", "l2"):
            assert contrastive.normalize(torch.ones(2, 3, dtype=given), similarity).dtype == kept


def test_without_codes_there_is_nothing_to_diversify():
    for kind in ("linear", "entropy"):
        assert contrastive.diversity_loss(torch.zeros(0, 1), kind) == 0


def test_hardest_takes_the_most_similar_allowed():
    scores = torch.tensor([[[5.0, 4.0, 3.0, 2.0, 1.0]]])
    weights = torch.tensor([[[0.0, 3.0, 1.0, 0.0, 1.0]]])
    hard = contrastive.hardest(Negatives(scores, weights), torch.tensor(2), 4)
    assert hard.scores[hard.weights > 0].tolist() == [4, 3]
    few = contrastive.hardest(Negatives(scores, weights), torch.tensor(4), 4)
    assert few.scores[few.weights > 0].tolist() == [4, 3, 1]


def test_pool_leaves_out_padding_and_the_anchor_itself():
    valid = torch.tensor([[True, True, False], [True, False, False]])
    index = contrastive.pool_index(torch.rand(2, 3), valid, 4)
    assert {0, 1, 3} < set(index.tolist())
    weights = contrastive.pool_weights(index, valid, torch.tensor(10))
    for b, i in valid.nonzero().tolist():
        by_frame = dict(zip(index.tolist(), weights[b, i].tolist(), strict=True))
        own = 3 * b + i
        assert by_frame[own] == 0
        assert all(by_frame[j] == (5 if j != own else 0) for j in (0, 1, 3))
        assert sum(by_frame.values()) == 10


def test_blocks_of_negatives_add_up():
    positive, scores, weights = torch.randn(1, 4), torch.randn(1, 4, 6), torch.randint(3, (1, 4, 6)).float()
    whole = contrastive.info_nce(positive, Negatives(scores, weights))
    parts = [Negatives(scores[..., s], weights[..., s]) for s in (slice(0, 2), slice(2, 6))]
    for a, b in zip(whole, contrastive.info_nce(positive, *parts), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("way", [dense, in_window])
def test_collapsed_codes_have_no_loss_but_only_chance_in_top1_tie(way):
    context, targets, _, uniform, count = problem()
    same = targets[:1, :1].detach().expand_as(targets).clone().requires_grad_()
    ids = torch.zeros(BATCH, FRAMES, dtype=torch.long)
    loss, right = way(context, same, ids, uniform, count)
    assert (loss == 0).all()
    assert right.all()
    assert all((g == 0).all() for g in torch.autograd.grad(loss.sum(), (context, same)))
    weights = contrastive.drawn_weights(uniform, count, torch.tensor(NEGATIVES))
    c, t = contrastive.normalize(context, "cosine"), contrastive.normalize(same, "cosine")
    negatives = Negatives(contrastive.cross_scores(c, t, "cosine", TAU), weights)
    score = contrastive.top1_tie(
        contrastive.pair_scores(c, t, "cosine", TAU), negatives, contrastive.same_code(ids, ids)
    )
    for b in range(BATCH):
        assert (score[b, : count[b]] == torch.tensor(1 / (NEGATIVES + 1))).all()


def test_top1_tie_counts_draws_and_not_frames():
    positive = torch.tensor([[1.0, 1.0, 1.0]])
    scores = torch.tensor([[[0.5, 1.0, 0.0], [2.0, 0.0, 0.0], [2.0, 1.0, 0.5]]])
    weights = torch.tensor([[[1.0, 3.0, 0.0], [0.0, 0.0, 5.0], [1.0, 1.0, 0.0]]])
    duplicates = torch.tensor([[[False, True, True], [False, False, False], [False, True, False]]])
    score = contrastive.top1_tie(positive, Negatives(scores, weights), duplicates)
    assert score.tolist() == [[1 / 4, 1, 0]]


def test_ids_are_equal_only_where_all_groups_are():
    codes = torch.tensor([[[0, 1], [1, 0], [0, 1], [15, 15]]])
    ids = contrastive.code_ids(codes, 16)
    pairs = contrastive.same_code(ids, ids)[0].nonzero().tolist()
    assert pairs == [[0, 0], [0, 2], [1, 1], [2, 0], [2, 2], [3, 3]]
    assert contrastive.code_ids(codes[..., :0], 16) is None


def test_diversity_by_hand():
    uniform, single = torch.full((1, 8), 1 / 8), torch.eye(8)[:1]
    probs = torch.cat([uniform, single])
    assert contrastive.diversity_loss(probs, "linear").item() == pytest.approx((16 - 9) / 16)
    assert contrastive.diversity_loss(probs, "entropy").item() == pytest.approx(math.log(8) / 2, abs=1e-6)
