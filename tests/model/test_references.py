"""The operators' laws in PyTorch against the same laws written out with NumPy and loops, in float64."""

import math

import numpy as np
import pytest
import torch

from model.ops.add_norm.reference import add_dropped_reference, add_norm_reference
from model.ops.contrast.reference import contrast_reference, counts_in
from model.ops.conv_qkv_gates.reference import block_diagonal, conv_qkv_gates_reference
from model.ops.dropout import drop
from model.ops.feed_forward.reference import feed_forward_reference
from model.ops.gumbel_codes.reference import (
    count_codes_reference,
    gumbel_noise_reference,
    philox,
    sample_codes_reference,
)
from model.ops.head_norm_gate.reference import head_norm_gate_reference
from model.ops.mlstm_cell.chunkwise import mlstm_cell_chunkwise
from model.ops.mlstm_cell.reference import mlstm_cell_reference
from model.ops.mlstm_mixer.reference import before_cell, mlstm_mixer_reference
from model.ops.norm_gelu import linear_norm_gelu
from model.ops.norm_gelu.reference import norm_gelu_reference

erf = np.vectorize(math.erf)


def normal(*shape, scale=1.0):
    return torch.randn(*shape, dtype=torch.float64) * scale


def close(have, want, rtol=1e-10):
    torch.testing.assert_close(have, torch.as_tensor(want, dtype=have.dtype), rtol=rtol, atol=rtol)


def layer_norm(x, weight=1.0, bias=0.0):
    """LayerNorm of a NumPy array over the last axis, with the variance of the whole."""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * np.asarray(weight) + np.asarray(bias)


def gelu(x):
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def test_small_numbers_are_normalised_with_the_eps_of_the_law():
    x, weight, bias = normal(2, 3, 8, scale=3e-3), normal(8), normal(8)
    want = layer_norm(x.numpy(), weight, bias)
    close(add_norm_reference(x, None, weight, bias, 0.0, None)[1], want)
    close(norm_gelu_reference(x, weight, bias, None, None, None, None), gelu(want))


def test_sum_then_norm():
    x, update, weight, bias = normal(2, 3, 8), normal(2, 3, 8), normal(8), normal(8)
    total, normed = add_norm_reference(x, update, weight, bias, 0.0, None)
    close(total, x + update)
    close(normed, layer_norm(total.numpy(), weight, bias))
    seed = torch.tensor([11])
    dropped = add_norm_reference(x, update, weight, bias, 0.4, seed)[0]
    close(dropped, add_dropped_reference(x, update, 0.4, seed))
    gone = (dropped - x) == 0
    assert 0 < gone.sum() < gone.numel()
    close((dropped - x)[~gone], update[~gone] / (1 - round(0.4 * 2**16) / 2**16))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_feed_forward_net(dropout):
    """x' = x + drop(update), then x' + drop(W2 gelu(W1 norm(x') + b1) + b2), with a seed for each of the two."""
    x, update = normal(2, 3, 8), normal(2, 3, 8)
    weight, bias, w1, b1, w2, b2 = normal(8), normal(8), normal(16, 8), normal(16), normal(8, 16), normal(8)
    seeds = torch.tensor([3, 4])
    first = x + drop(update, seeds[0], dropout)
    hidden = gelu(layer_norm(first.numpy(), weight, bias) @ w1.mT.numpy() + b1.numpy())
    want = first + drop(torch.as_tensor(hidden @ w2.mT.numpy() + b2.numpy()), seeds[1], dropout)
    close(feed_forward_reference(x, update, weight, bias, w1, b1, w2, b2, dropout, seeds), want)


def test_norm_and_gelu_of_what_the_frame_before_left():
    """The second product of frame s belongs to frame s + 1; the last one is of no frame."""
    x, early, (weight, bias, offset, last_weight, last_bias) = normal(2, 5, 8), normal(2, 5, 8), normal(5, 8)
    total = x.numpy() + offset.numpy()
    for s in range(1, 5):
        total[:, s] += early[:, s - 1].numpy()
    want = layer_norm(gelu(layer_norm(total, weight, bias)), last_weight, last_bias)
    close(norm_gelu_reference(x, weight, bias, early, offset, last_weight, last_bias), want)
    linear = normal(8, 6)
    x = normal(2, 5, 6)
    want = gelu(layer_norm(x.numpy() @ linear.mT.numpy(), weight, bias))
    close(linear_norm_gelu(x, linear, weight, bias, backend="torch"), want)


@pytest.mark.parametrize("directions", [1, 2])
def test_head_norm_gate_norms_every_head_alone_and_gates_the_sum_of_directions(directions):
    h, conv, z = normal(directions, 2, 3, 2, 4), normal(directions, 2, 3, 8), normal(2, 3, 8)
    weight, skip = normal(8), normal(8)
    want = np.zeros((2, 3, 8))
    for r in range(directions):
        for head in range(2):
            inside = slice(4 * head, 4 * head + 4)
            want[..., inside] += layer_norm(h[r, :, :, head].numpy(), 1 + weight[inside])
        want += skip.numpy() * conv[r].numpy()
    close(head_norm_gate_reference(h, conv, z, weight, skip), want * silu(z.numpy()))


def conv_qkv_gates_problem(inner=8, heads=2, frames=6, kernel=3):
    x, taps, bias = normal(2, frames, inner), normal(inner, kernel), normal(inner)
    maps = [normal(inner // 4, 4, 4) for _ in range(3)]
    return x, taps, bias, *maps, normal(2 * heads, 3 * inner), normal(2 * heads)


def dense(blocks):
    """The matrix (I, I) of blocks (I / n, out, in), block by block."""
    count, size, _ = blocks.shape
    matrix = np.zeros((count * size, count * size))
    for b in range(count):
        matrix[b * size : (b + 1) * size, b * size : (b + 1) * size] = blocks[b].numpy()
    return matrix


def test_conv_qkv_gates_is_convolution_maps_and_gates():
    """Keys meet the convolved input as W_k a' meets W_q a; gates see W_q a, W_k a and W_v x beside each other."""
    x, taps, bias, wq, wk, wv, gate_weight, gate_bias = problem = conv_qkv_gates_problem()
    conv, k, v, gates = conv_qkv_gates_reference(*problem, (False, True))
    close(block_diagonal(wq), dense(wq))
    close(v[0], x.numpy() @ dense(wv).T)
    for r, step in enumerate((-1, 1)):
        sums = np.tile(bias.numpy(), (2, 6, 1))
        for s in range(6):
            for reach in range(3):
                if 0 <= s + step * reach < 6:
                    sums[:, s] += taps[:, 2 - reach].numpy() * x[:, s + step * reach].numpy()
        a = silu(sums)
        close(conv[r], a)
        queries, keys = a @ dense(wq).T, a @ dense(wk).T
        for block in (slice(0, 4), slice(4, 8)):
            close(conv[r, ..., block] @ k[r, ..., block].mT, queries[..., block] @ keys[..., block].swapaxes(1, 2))
        seen = np.concatenate([queries, keys, x.numpy() @ dense(wv).T], axis=-1)
        close(gates[r], seen @ gate_weight.mT.numpy() + gate_bias.numpy())


@pytest.mark.parametrize("backward", [False, True])
def test_conv_qkv_gates_in_one_direction_is_its_part_of_both(backward):
    problem = conv_qkv_gates_problem()
    one, both = conv_qkv_gates_reference(*problem, (backward,)), conv_qkv_gates_reference(*problem, (False, True))
    for name, a, b in zip(("conv", "k", "v", "gates"), one, both, strict=True):
        close(a[0], b[0 if name == "v" else int(backward)])


def test_gates_are_capped_and_heads_stand_side_by_side():
    x, *weights = conv_qkv_gates_problem()
    weights[-2], weights[-1] = 3 * weights[-2], 3 * weights[-1]
    conv, k, v, gates = conv_qkv_gates_reference(x, *weights, (False, True))
    (q, keys, values, igate, fgate), also = before_cell(x, *weights, cap=2.5, backend="torch")
    assert gates.abs().max() > 10
    capped = 2.5 * np.tanh(gates.numpy() / 2.5)
    close(igate, capped[..., :2])
    close(fgate, capped[..., 2:])
    for split, whole in ((q, conv), (keys, k), (values, v), (also[..., None, :], conv)):
        assert torch.equal(split.flatten(-2), whole)
    assert q.shape == (2, 2, 6, 2, 4)


@pytest.mark.parametrize("directions", [(False,), (False, True)])
def test_mlstm_mixer_is_projection_cell_and_combination(directions):
    x, *weights = conv_qkv_gates_problem()
    z, norm_weight, skip = normal(2, 6, 8), normal(8), normal(8)
    conv, k, v, gates = conv_qkv_gates_reference(x, *weights, directions)
    heads = [t.unflatten(-1, (2, 4)) for t in (conv, k, v)]
    capped = 1.5 * torch.tanh(gates / 1.5)
    h = mlstm_cell_reference(*heads, capped[..., :2], capped[..., 2:], eps=1e-6)
    have = mlstm_mixer_reference(torch.cat([x, z], -1), *weights, norm_weight, skip, directions=directions, cap=1.5)
    close(have, head_norm_gate_reference(h, conv, z, norm_weight, skip))


def mlstm_cell_problem(length, values=2):
    q, k = normal(2, 2, length, 2, 4), normal(2, 2, length, 2, 4)
    return q, k, normal(values, 2, length, 2, 4), normal(2, 2, length, 2), normal(2, 2, length, 2) + 1


def unrolled(q, k, v, igate, fgate):
    """Every frame as a weighted mean of all before it, without any stabiliser: h_t = sum_s w_ts v_s / max(|sum_s w_ts|, 1)."""
    _, batch, length, heads, dim = q.shape
    q, k, v, igate, fgate = (x.numpy() for x in (q, k, v.expand_as(q), igate, fgate))
    out = np.zeros(q.shape)
    for r, b, t, h in np.ndindex(2, batch, length, heads):
        past = range(t, -1, -1) if r == 0 else range(t, length)
        keep, read, total = 1.0, np.zeros(dim), 0.0
        for s in past:
            weight = keep * math.exp(igate[r, b, s, h]) * (k[r, b, s, h] @ q[r, b, t, h]) / math.sqrt(dim)
            read, total = read + weight * v[r, b, s, h], total + weight
            keep *= sigmoid(fgate[r, b, s, h])
        out[r, b, t, h] = read / max(abs(total), 1)
    return out


@pytest.mark.parametrize("values", [1, 2])
def test_recurrence_is_a_weighted_mean_of_the_past(values):
    problem = mlstm_cell_problem(9, values)
    close(mlstm_cell_reference(*problem, eps=0.0), unrolled(*problem))


def test_direction_one_alone_is_forward():
    problem = [x[:1] for x in mlstm_cell_problem(7)]
    both = mlstm_cell_reference(*[torch.cat([x, x]) for x in problem])
    close(mlstm_cell_reference(*problem)[0], both[0])
    assert (both[0] != both[1]).any()


@pytest.mark.parametrize("chunk", [1, 4, 11, 64])
@pytest.mark.parametrize("values", [1, 2])
def test_chunks_are_the_recurrence_eps_included(chunk, values):
    """An eps that matters, and rare inputs and short memories in turn, so that stabilisers rise and fall across chunks."""
    q, k, v, igate, fgate = mlstm_cell_problem(11, values)
    problem = (q, k, v, 4 * igate, 4 * fgate)
    close(mlstm_cell_chunkwise(*problem, eps=0.3, chunk=chunk), mlstm_cell_reference(*problem, eps=0.3))


def test_bytes_of_a_word_are_counts_from_the_lowest_on():
    words = torch.tensor([[[1 | 2 << 8 | 3 << 16 | 255 - 256 << 24, 7 | 9 << 8]]], dtype=torch.int32)
    assert counts_in(words, 6).tolist() == [[[1, 2, 3, 255, 7, 9]]]


@pytest.mark.parametrize("cosine", [False, True])
def test_contrast_is_the_loss_written_out(cosine):
    """Unequal counts, frames of equal code, and a tie with the positive, which does not beat it."""
    context, targets = normal(2, 5, 3), normal(2, 5, 3)
    targets[0, 3], context[0, 1, 1:] = targets[0, 1], 0
    ids = torch.tensor([[4, 1, 4, 2, 0], [0, 0, 0, 3, 3]])
    counts = torch.randint(0, 4, (2, 5, 5))
    counts[0, 1, 3] = 2
    counts[..., torch.arange(5), torch.arange(5)] = 0
    words = torch.zeros(2, 5, 2, dtype=torch.int32)
    for j in range(5):
        words[..., j // 4] |= (counts[..., j] << 8 * (j % 4)).int()
    loss, best = contrast_reference(context, targets, ids, words, 0.3, cosine)
    for b, i in np.ndindex(2, 5):

        def score(j, b=b, i=i):
            product = context[b, i] @ targets[b, j]
            return (product / (context[b, i].norm() * targets[b, j].norm()) if cosine else product).item() / 0.3

        drawn = [j for j in range(5) if counts[b, i, j] and ids[b, j] != ids[b, i]]
        total = math.exp(score(i)) + sum(int(counts[b, i, j]) * math.exp(score(j)) for j in drawn)
        close(loss[b, i], math.log(total) - score(i))
        assert best[b, i] == all(score(j) <= score(i) + 1e-12 for j in drawn)
    assert 0 < best.sum() < 10


def philox_of(seed, c0, c1, rounds):
    """Philox4x32 of Salmon et al. 2011 in Python's integers."""
    c, k = [c0, c1, 0, 0], [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(rounds):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def test_philox_is_that_of_the_paper():
    """Known answer for zeros, published with the generator; other counters and keys from plain integers."""
    zero = torch.zeros((), dtype=torch.long)
    assert [x.item() for x in philox(zero, zero, zero)] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    for seed, c0, c1, rounds in [(2**61 + 12345, 7, 3, 10), (5 << 32, 2**31 + 1, 2**32 - 1, 7)]:
        have = philox(*(torch.tensor(x) for x in (seed, c0, c1)), rounds=rounds)
        assert [x.item() for x in have] == philox_of(seed, c0, c1, rounds)


@pytest.mark.parametrize(("num_codes", "width"), [(5, 2), (70, 16), (600, 32)])
def test_noise_takes_every_output_of_every_call_in_turn(num_codes, width):
    """Code v is output v // width mod 4 of the call of its piece; small frames first, then groups."""
    seed, groups = 2**40 + 9, 2
    noise = gumbel_noise_reference(torch.tensor([seed]), 3, groups, num_codes)
    for n, g, v in [(0, 0, 0), (0, 1, 1), (2, 0, width), (1, 1, num_codes - 1), (2, 1, min(3 * width, num_codes - 2))]:
        call, rest = divmod(v, 4 * width)
        bits = philox_of(seed, n * groups + g, call * width + rest % width, 10)[rest // width]
        want = -math.log(-math.log1p(-((bits >> 9) + 0.5) / 2**23))
        assert noise[n, g, v].item() == pytest.approx(want, rel=1e-6)


def test_samples_and_straight_through_gradients():
    """Ids by logits plus noise, means without noise, the logits' gradient through the softmax at the temperature."""
    logits, codebook, noise = normal(7, 2, 5), normal(2, 5, 3), normal(7, 2, 5, scale=3.0)
    weight, temperature = torch.rand(7, dtype=torch.float64), 0.7
    logits.requires_grad_()
    codebook.requires_grad_()
    q, ids, mean = sample_codes_reference(logits, codebook, temperature, weight, noise)
    cotangent = normal(7, 2, 3)
    d_logits, d_codebook = torch.autograd.grad((q * cotangent).sum(), (logits, codebook), retain_graph=True)
    plain, noisy, codes = logits.detach().numpy(), (logits.detach() + noise).numpy(), codebook.detach().numpy()
    want_codebook = np.zeros((2, 5, 3))
    for n, g in np.ndindex(7, 2):
        chosen = noisy[n, g].argmax()
        assert ids[n, g] == chosen
        close(q[n, g].detach(), codes[g, chosen])
        want_codebook[g, chosen] += cotangent[n, g].numpy()
        soft = np.exp(noisy[n, g] / temperature) / np.exp(noisy[n, g] / temperature).sum()
        pull = codes[g] @ cotangent[n, g].numpy()
        close(d_logits[n, g], soft * (pull - soft @ pull) / temperature)
    close(d_codebook, want_codebook)
    softmax = np.exp(plain) / np.exp(plain).sum(-1, keepdims=True)
    close(mean.detach(), (softmax * weight.numpy()[:, None, None]).sum(0))
    assert (ids != torch.as_tensor(plain.argmax(-1))).any()


def test_codes_are_counted_by_group_and_weight():
    ids, weight = torch.tensor([[0, 2], [3, 2], [0, 0]]), torch.tensor([1.0, 0.5, 0.25])
    assert count_codes_reference(ids, weight, 4).tolist() == [[1.25, 0, 0, 0.5], [0.25, 0, 1.5, 0]]
