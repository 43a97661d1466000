from collections import Counter
from itertools import combinations, permutations

import pytest
import torch

from model.config import MaskConfig
from model.draws import Draws, KeyedDraws
from model.masking import num_masked, span_mask, take, take_aside
from model.ops.spans.reference import exact_spans

CPU = torch.device("cpu")


def draw(rows, num_frames, **config):
    return span_mask(torch.rand(rows, 2 * num_frames + 1), MaskConfig(**config))


@pytest.mark.parametrize("ratio", [0.35, 0.5, 0.65, 0.8])
@pytest.mark.parametrize(("num_frames", "span"), [(1024, 10), (64, 4), (61, 1)])
def test_exactly_the_ratio_in_every_row(ratio, num_frames, span):
    mask = draw(50, num_frames, ratio=ratio, span_frames=span)
    total = round(ratio * num_frames)
    assert num_masked(num_frames, MaskConfig(ratio=ratio, span_frames=span)) == total
    assert (mask.frames.sum(1) == total).all()
    for row, index in zip(mask.frames, mask.index, strict=True):
        assert row.nonzero().flatten().tolist() == index[:total].tolist()


def run_lengths(row):
    """Lengths of the runs of true values on a circle."""
    start = int((~row).nonzero()[0])
    text = "".join("1" if x else "0" for x in row.roll(-start))
    return [len(run) for run in text.split("0") if run]


def test_runs_are_whole_spans():
    for row in draw(50, 1024, ratio=0.5, span_frames=8).frames:
        assert all(length % 8 == 0 for length in run_lengths(row))


def test_placements_are_uniform():
    """Chi-square against the enumeration of all 30 ways to place spans of 2, 2 and 1 in 7 frames."""
    ways = set()
    for lengths in set(permutations([2, 2, 1])):
        for starts in combinations(range(7), 3):
            ends = [s + n for s, n in zip(starts, lengths, strict=True)]
            if ends[0] <= starts[1] and ends[1] <= starts[2] and ends[2] <= 7:
                ways.add((starts, lengths))
    assert len(ways) == 30
    rows = 30000
    starts, lengths = exact_spans(torch.rand(rows, 7), torch.rand(rows, 7), total=5, span=2)
    found = Counter(zip(map(tuple, starts.tolist()), map(tuple, lengths.tolist()), strict=True))
    assert set(found) == ways
    chi2 = sum((n - rows / 30) ** 2 / (rows / 30) for n in found.values())
    assert chi2 < 67  # 29 degrees of freedom: exceeded once in 10,000 times


def test_edges_are_masked_as_often_as_the_middle():
    rows, ratio = 8000, 0.65
    share = draw(rows, 100, ratio=ratio, span_frames=10).frames.float().mean(0)
    assert (share - ratio).abs().max() < 5 * (ratio * (1 - ratio) / rows) ** 0.5


def test_wav2vec2_spans_overlap_as_in_the_published_recipe():
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

    mask = draw(200, 1024, ratio=0.65, span_frames=10, mode="wav2vec2")
    theirs = _compute_mask_indices((200, 1024), 0.65, 10)
    assert abs(mask.frames.float().mean().item() - theirs.mean()) < 0.01
    assert mask.frames.sum(1).unique().numel() > 5
    for row, index in zip(mask.frames, mask.index, strict=True):
        assert row.nonzero().flatten().tolist() == index[: row.sum()].tolist()


def test_wav2vec2_spans_start_at_different_frames_up_to_the_last_possible():
    """Spans of one frame mask exactly the ratio, as no start is drawn twice; longer ones reach every frame."""
    assert (draw(20, 61, ratio=0.4, span_frames=1, mode="wav2vec2").frames.sum(1) == round(0.4 * 61)).all()
    assert draw(200, 12, ratio=0.4, span_frames=4, mode="wav2vec2").frames.any(0).all()


def test_spans_by_hand():
    """Slots 1 and 3 of six hold the spans, with a free frame between them: frames 1, 2, 4, 5, two frames later."""
    place, order, shift = [0.1, 0.9, 0.2, 0.8, 0.3, 0.0, 0.99, 0.99], [0.5] * 8, [0.25]
    mask = span_mask(torch.tensor([place + order + shift]), MaskConfig(ratio=0.5, span_frames=2))
    assert mask.frames[0].nonzero().flatten().tolist() == [3, 4, 6, 7]
    assert mask.index.tolist() == [[3, 4, 6, 7, 0, 0, 0, 0]]
    assert mask.rank.tolist() == [[0, 0, 0, 0, 1, 2, 2, 3]]


@pytest.mark.parametrize("mode", ["exact", "wav2vec2"])
@pytest.mark.parametrize(("ratio", "width"), [(0.1, 8), (0.3, 24), (0.97, 60)])
def test_index_is_as_wide_as_the_next_multiple_of_eight(mode, ratio, width):
    """60 frames at most; the last rows of a tile would be slow otherwise."""
    mask = draw(3, 60, ratio=ratio, span_frames=2, mode=mode)
    assert mask.index.shape == (3, width)
    for row, index, rank in zip(mask.frames, mask.index, mask.rank, strict=True):
        assert rank[index[: row.sum()]].tolist() == list(range(int(row.sum())))


@pytest.mark.parametrize("mode", ["exact", "wav2vec2"])
def test_at_least_one_frame_is_masked_and_one_is_seen(mode):
    few, many = (MaskConfig(ratio=ratio, span_frames=1, mode=mode) for ratio in (0.001, 0.999))
    assert num_masked(40, few) == 1
    assert num_masked(40, many) == (39 if mode == "exact" else 40)
    assert num_masked(40, MaskConfig(ratio=0.5, span_frames=15, mode="wav2vec2")) == 15


def test_a_generator_makes_it_reproducible():
    for name, shape in (("uniform", (3, 129)), ("gumbel", (3, 129)), ("seed", ())):
        first, again, other = (getattr(Draws(CPU, torch.Generator().manual_seed(s)), name)(*shape) for s in (1, 1, 2))
        assert (first == again).all()
        assert (first != other).all()


def test_span_longer_than_the_window_is_refused():
    with pytest.raises(ValueError, match="span_frames=20"):
        draw(1, 16, span_frames=20)


def test_keyed_draws_depend_on_the_window_alone():
    several, alone = KeyedDraws(torch.tensor([5, 77, 2**40])), KeyedDraws(torch.tensor([77]))
    for _ in range(2):
        assert (several.uniform(3, 11, 7)[1] == alone.uniform(1, 11, 7)[0]).all()
    assert (KeyedDraws(torch.tensor([5]), seed=1).uniform(1, 50) != KeyedDraws(torch.tensor([5])).uniform(1, 50)).any()


def test_keyed_draws_are_these_numbers_on_every_device():
    """Scores of one validation compare with those of another only while windows keep their masks."""
    draws = KeyedDraws(torch.tensor([5, 2**35 + 9]), seed=3)
    assert (draws.uniform(2, 2, 2) * 2**24).long().tolist() == [
        [[9221840, 10567143], [9058859, 11648895]],
        [[6227930, 1540096], [13937808, 13935166]],
    ]
    assert (draws.uniform(2, 3) * 2**24).long().tolist() == [
        [11723685, 1219667, 3794010],
        [3911009, 15976561, 13428398],
    ]


def test_keyed_noise_is_made_of_the_uniform_numbers_and_of_no_common_seed():
    ids = torch.arange(4)
    noise, uniform = KeyedDraws(ids).gumbel(4, 7, 3), KeyedDraws(ids).uniform(4, 7, 3)
    assert uniform.min() == 0
    torch.testing.assert_close(noise, -(-uniform.clamp_min(2**-25).log()).log())
    draws = KeyedDraws(ids)
    assert (draws.uniform(4, 50) != draws.uniform(4, 50)).any(1).all()
    assert draws.seed() is None


def test_keyed_draws_are_uniform_and_independent():
    x = KeyedDraws(torch.arange(100)).uniform(100, 2000)
    assert x.min() >= 0
    assert x.max() < 1
    counts = torch.histc(x, 64, 0, 1)
    expected = x.numel() / 64
    assert ((counts - expected) ** 2 / expected).sum() < 115  # 63 degrees of freedom: 1 in 10,000
    y = x - 0.5
    for other in (y.roll(1, 0), y.roll(1, 1), KeyedDraws(torch.arange(100), seed=1).uniform(100, 2000) - 0.5):
        assert abs((y * other).mean().item() * 12) < 5 / x.numel() ** 0.5


@pytest.mark.parametrize("draws", [Draws(CPU), KeyedDraws(torch.arange(4))])
def test_gumbel_noise_has_the_moments_of_its_law(draws):
    x = draws.gumbel(4, 100_000).double()
    assert abs(x.mean().item() - 0.5772) < 0.01
    assert abs(x.var().item() - torch.pi**2 / 6) < 0.03
    assert x.isfinite().all()


@pytest.mark.parametrize("aside", [False, True])
@pytest.mark.parametrize("mode", ["exact", "wav2vec2"])
def test_masked_frames_are_taken_and_their_gradient_comes_back(mode, aside):
    """Rows that are wider than a row's masked frames end in copies of frame 0, which take no part in the gradient."""
    mask = draw(5, 61, ratio=0.5, span_frames=4, mode=mode)
    ours = torch.randn(5, 61, 3, dtype=torch.float64, requires_grad=True)
    plain = ours.detach().clone().requires_grad_()
    index = mask.index[..., None].expand(-1, -1, 3)
    there = (torch.arange(index.shape[1]) < mask.frames.sum(1)[:, None])[..., None]
    grad = torch.randn(index.shape, dtype=torch.float64)
    gathered = plain.gather(1, index)
    rest, taken = take_aside(ours, mask) if aside else (ours, take(ours, mask))
    assert torch.equal(taken, gathered)
    assert torch.equal(rest, ours)
    other = torch.randn_like(plain)
    ((taken * grad).sum() + (rest * other).sum()).backward()
    ((gathered * grad * there).sum() + (plain * other).sum()).backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-14, atol=1e-14)
