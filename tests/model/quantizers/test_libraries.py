"""What the library's quantizers are told, and the two levels of the hierarchical one."""

import copy

import pytest
import torch

from model.draws import Draws
from model.quantizers import build_quantizer

CPU = torch.device("cpu")
NEAREST = ["ema", "residual"]


def run(quantizer, x, weight=None):
    return quantizer(x, torch.ones(x.shape[:2]) if weight is None else weight, Draws(CPU))


def plain(quantizer):
    """Removes input and output projections, so that targets are the codes' vectors; returns the quantizer."""
    quantizer.input = quantizer.output = torch.nn.Identity()
    return quantizer


@pytest.mark.parametrize("kind", NEAREST)
def test_padding_moves_no_codebook_and_costs_nothing(tiny, kind):
    first = build_quantizer(tiny(kind=kind))
    second = copy.deepcopy(first)
    x, weight = torch.randn(2, 30, 32), (torch.arange(30) < torch.tensor([[30], [11]])).float()
    garbage = torch.where(weight[..., None] > 0, x, 50.0)
    found = []
    for quantizer, frames in ((first, x), (second, garbage)):
        torch.manual_seed(1)
        found.append(run(quantizer, frames, weight))
    torch.testing.assert_close(second.state_dict(), first.state_dict())
    torch.testing.assert_close(found[1].aux_loss, found[0].aux_loss)
    assert torch.equal(found[1].codes[weight > 0], found[0].codes[weight > 0])
    assert torch.equal(found[1].counts, found[0].counts)


def test_groups_have_codebooks_of_their_own_and_levels_what_is_left_over(tiny):
    """The nearest code by hand, of each half of the channels or of what the level before left."""
    x = torch.randn(2, 9, 32)
    grouped = plain(build_quantizer(tiny(kind="ema"))).eval()
    levels = plain(build_quantizer(tiny(kind="residual", code_dim=32))).eval()
    out = run(grouped, x)
    for group, part in enumerate(x.chunk(2, dim=-1)):
        embed = grouped.codebooks[group]._codebook.embed[0]
        nearest = torch.cdist(part, embed).argmin(-1)
        assert torch.equal(out.codes[..., group], nearest)
        torch.testing.assert_close(out.targets.chunk(2, dim=-1)[group], embed[nearest])
    out, rest = run(levels, x), x
    for level, codebook in enumerate(levels.codebooks):
        nearest = torch.cdist(rest, codebook._codebook.embed[0]).argmin(-1)
        assert torch.equal(out.codes[..., level], nearest)
        rest = rest - codebook._codebook.embed[0][nearest]
    torch.testing.assert_close(out.targets, x - rest, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", NEAREST)
def test_gradient_of_targets_passes_straight_through_once(tiny, kind):
    """Also over several levels: the frames get the gradient of one."""
    quantizer, x = plain(build_quantizer(tiny(kind=kind, code_dim=16 if kind == "ema" else 32))), torch.randn(2, 9, 32)
    x.requires_grad_()
    cotangent = torch.randn(2, 9, 32)
    (grad,) = torch.autograd.grad((run(quantizer, x).targets * cotangent).sum(), x)
    torch.testing.assert_close(grad, cotangent)


def test_rotation_turns_the_gradient_with_the_frame_onto_its_code(tiny):
    """Its length is that of the target over that of the frame, times that of the target's gradient."""
    quantizer = plain(build_quantizer(tiny(kind="ema", num_groups=1, code_dim=32, rotation_trick=True)))
    x, cotangent = torch.randn(1, 9, 32, requires_grad=True), torch.randn(1, 9, 32)
    out = run(quantizer, x)
    (grad,) = torch.autograd.grad((out.targets * cotangent).sum(), x)
    want = out.targets.norm(dim=-1) / x.norm(dim=-1) * cotangent.norm(dim=-1)
    torch.testing.assert_close(grad.norm(dim=-1), want, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(grad, cotangent, atol=0.1)


@pytest.mark.parametrize("kind", NEAREST)
@pytest.mark.parametrize("commitment", [0.25, 2.0])
def test_commitment_is_its_weight_times_the_squared_error_of_every_codebook(tiny, kind, commitment):
    """Its gradient pulls a frame to its code: 2 commitment (x - q) over the numbers of the codebook, for groups; the
    levels of "residual" add up, each with what it left over."""
    dim = 16 if kind == "ema" else 32
    quantizer = plain(build_quantizer(tiny(kind=kind, code_dim=dim, commitment=commitment)))
    embeds = [codebook._codebook.embed[0].clone() for codebook in quantizer.codebooks]
    x = torch.randn(2, 9, 32, requires_grad=True)
    out = run(quantizer, x)
    rest, want, want_grad = x.detach(), 0.0, []
    for number, embed in enumerate(embeds):
        part = rest.chunk(2, dim=-1)[number] if kind == "ema" else rest
        error = part - embed[torch.cdist(part, embed).argmin(-1)]
        want += commitment * error.square().mean()
        want_grad.append(2 * commitment * error / error.numel())
        rest = rest if kind == "ema" else error
    torch.testing.assert_close(out.aux_loss, want)
    (grad,) = torch.autograd.grad(out.aux_loss, x)
    torch.testing.assert_close(grad, torch.cat(want_grad, dim=-1) if kind == "ema" else sum(want_grad))


@pytest.mark.parametrize("decay", [0.8, 0.5])
def test_codes_move_by_the_decay_of_the_configuration(tiny, decay):
    quantizer = plain(build_quantizer(tiny(kind="ema", ema_decay=decay, revive_below=1e-6)))
    before = [codebook._codebook.cluster_size.clone() for codebook in quantizer.codebooks]
    out = run(quantizer, torch.randn(2, 30, 32))
    for size, codebook, counts in zip(before, quantizer.codebooks, out.counts, strict=True):
        torch.testing.assert_close(codebook._codebook.cluster_size[0], decay * size[0] + (1 - decay) * counts)


def test_codes_below_the_share_of_the_configuration_become_frames_of_average_use(tiny):
    """16 codes and 64 frames: the average use is 4, and codes die below 0.1 of it, also if it was their luck."""
    quantizer = plain(build_quantizer(tiny(kind="ema", num_groups=1, code_dim=32, revive_below=0.1)))
    inner = quantizer.codebooks[0]._codebook
    with torch.no_grad():  # all frames go to code 0; decay 0.8 leaves 0.44 of code 1 and 0.36 of code 2
        inner.embed[0, 0], inner.embed[0, 1:] = 1.0, 100.0
        inner.embed_avg.copy_(inner.embed)
        inner.cluster_size.fill_(1.0)
        inner.cluster_size[0, 1:3] = torch.tensor([0.55, 0.45])
    x = 1 + 0.01 * torch.randn(2, 32, 32)
    run(quantizer, x)
    size = inner.cluster_size[0]
    assert size[1].item() == pytest.approx(0.44)
    assert size[2].item() == pytest.approx(4)
    assert torch.cdist(inner.embed[:, 2], x.flatten(0, 1)[None, :]).min() < 1e-3
    assert (size[3:] < 1).all()


def test_rounded_groups_take_the_levels_of_the_configuration(tiny):
    """Frames of one code have one vector, so the targets of groups whose ids agree do, too; no id beyond the levels."""
    quantizer = build_quantizer(tiny(kind="fsq")).eval()
    x = 3 * torch.randn(8, 64, 32)
    out = run(quantizer, x)
    ids = out.codes[..., 0] * 320 + out.codes[..., 1]
    _, inverse = ids.flatten().unique(return_inverse=True)
    vectors = out.targets.flatten(0, 1)
    first = torch.stack([vectors[inverse == i][0] for i in range(int(inverse.max()) + 1)])
    torch.testing.assert_close(vectors, first[inverse])
    assert len(first) < len(vectors)
    assert 300 < out.codes.max() < 320


@pytest.mark.parametrize("training", [False, True])
def test_coarse_code_holds_for_a_fold_and_conditions_the_fine_one(tiny, training):
    """Written out with the two Gumbel quantizers it is made of; padding that cuts a fold counts by its part."""
    quantizer = build_quantizer(tiny(kind="hierarchical")).train(training)
    x = torch.randn(2, 8, 32)
    weight = (torch.arange(8) < torch.tensor([[8], [5]])).float()
    out = quantizer(x, weight, Draws(CPU, torch.Generator().manual_seed(2)))
    draws = Draws(CPU, torch.Generator().manual_seed(2))
    folded = torch.stack([torch.cat([x[:, 4 * s + j] for j in range(4)], -1) for s in range(2)], 1)
    coarse = quantizer.coarse(folded, torch.tensor([[1, 1], [1, 0.25]]), draws)
    above = coarse.targets[:, torch.arange(8) // 4]
    fine = quantizer.fine(torch.cat([x, above], -1), weight, draws)
    torch.testing.assert_close(out.targets, above + fine.targets)
    assert torch.equal(out.codes[..., 0], coarse.codes[:, torch.arange(8) // 4, 0])
    assert torch.equal(out.codes[..., 1], fine.codes[..., 0])
    torch.testing.assert_close(out.mean_probs, torch.cat([coarse.mean_probs, fine.mean_probs]))
    assert out.counts.sum(-1).tolist() == [13, 13]
    assert torch.equal(out.counts, torch.cat([4 * coarse.counts, fine.counts]))
