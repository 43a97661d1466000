"""How far the kernels are from fp64, values and gradients, beside plain PyTorch in the same dtype.

For the tests on a GPU, and for `jobs.doctor` on the GPU of a user: a compiler may get a kernel wrong for one GPU alone.

Shape letters: R directions, B batch, S frames, H heads, E channels of a head, I inner channels.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from model.ops.add_norm import add_dropped, add_norm
from model.ops.contrast import contrast
from model.ops.conv_qkv_gates import conv_qkv_gates
from model.ops.feed_forward import feed_forward
from model.ops.head_norm_gate import head_norm_gate
from model.ops.mlstm_cell import mlstm_cell
from model.ops.mlstm_mixer import mlstm_mixer
from model.ops.norm_gelu import linear_norm_gelu, norm_gelu

FLOOR = 4e-3
"""Error of rounding results to bfloat16, about; below it there is nothing to compare."""
CEILING = 2e-2
"""Most that is allowed where plain PyTorch rounds worse: its gradients of the cell are off by up to 0.4 in bfloat16."""


class Problem(NamedTuple):
    """An operator and its inputs."""

    operator: Callable[..., Tensor | tuple[Tensor, ...]]
    """Takes the inputs, and `backend`."""
    inputs: list[Tensor]
    names: list[str]
    """Of its outputs, then of the gradients of its inputs."""
    ceiling: float = CEILING
    """Most error that is allowed."""


def mlstm_cell_problem(
    batch, heads, length, dim, values=1, igate=(0.0, 1.0), fgate=(4.0, 1.0), *, device="cuda"
) -> Problem:
    """Returns the mLSTM cell in both directions, with values for each or (1) for both; gates have (mean, spread)."""
    normal = _normal(length, device)
    q, k = (normal(2, batch, length, heads, dim).bfloat16() for _ in range(2))
    v = normal(values, batch, length, heads, dim).bfloat16()
    gates = [normal(2, batch, length, heads) * spread + mean for mean, spread in (igate, fgate)]
    return _problem(mlstm_cell, [q, k, v, *gates], "h dq dk dv digate dfgate")


def conv_qkv_gates_problem(batch, length, inner, heads, directions=(False, True), *, device="cuda") -> Problem:
    """Returns `conv_qkv_gates` of (B, S, I) in the directions asked for."""
    normal, maps = _normal(length, device), (inner // 4, 4, 4)
    shapes = ((batch, length, inner), (inner, 4), (inner,), maps, maps, maps, (2 * heads, 3 * inner), (2 * heads,))
    scales = (1, 0.5, 0.1, 0.5, 0.5, 0.5, 0.05, 1)
    inputs = [(normal(*shape) * scale).bfloat16() for shape, scale in zip(shapes, scales, strict=True)]
    names = "conv k v gates dx dtaps dbias dq_weight dk_weight dv_weight dgate_weight dgate_bias"
    return _problem(partial(conv_qkv_gates, directions=directions), inputs, names)


def head_norm_gate_problem(directions, batch, length, heads, dim, *, device="cuda") -> Problem:
    """Returns `head_norm_gate` of hidden states (R, B, S, H, E)."""
    normal, inner = _normal(length, device), heads * dim
    shapes = ((directions, batch, length, heads, dim), (directions, batch, length, inner), (batch, length, inner))
    inputs = [normal(*shape).bfloat16() for shape in (*shapes, (inner,), (inner,))]
    return _problem(head_norm_gate, inputs, "y dh dconv dz dweight dskip")


def mlstm_mixer_problem(batch, length, inner, heads, directions=(False, True), *, device="cuda") -> Problem:
    """Returns `mlstm_mixer` of (B, S, 2 I), weights and gates, capped at 15, like those of a layer at the start of training."""
    normal, maps = _normal(length, device), (inner // 4, 4, 4)
    weights = ((inner, 4), (inner,), maps, maps, maps, (2 * heads, 3 * inner), (2 * heads,), (inner,), (inner,))
    scales = (0.5, 0.1, 0.2, 0.2, 0.2, 0.02, 0.1, 0.1, 0.5)
    inputs = [(normal(*shape) * scale).bfloat16() for shape, scale in zip(weights, scales, strict=True)]
    inputs[6][heads:] += 4
    names = "y dwide dtaps dconv_bias dwq dwk dwv dgate_weight dgate_bias dnorm_weight dskip"
    wide = normal(batch, length, 2 * inner).bfloat16()
    # The gates' bias has the sum of gradients that cancel, and gathers what q, k, v and gates were rounded by.
    return _problem(partial(mlstm_mixer, directions=directions, cap=15.0), [wide, *inputs], names)._replace(
        ceiling=2 * CEILING
    )


def feed_forward_problem(batch, length, width, hidden, *, device="cuda") -> Problem:
    """Returns `feed_forward` of (B, S, D), a tenth of the elements dropped."""
    normal = _normal(length, device)
    shapes = ((width,), (width,), (hidden, width), (hidden,), (width, hidden), (width,))
    scales = (1, 0.1, width**-0.5, 0.1, hidden**-0.5, 0.1)
    inputs = [normal(batch, length, width), normal(batch, length, width)]
    inputs += [normal(*shape) * scale for shape, scale in zip(shapes, scales, strict=True)]
    operator = partial(feed_forward, dropout=0.1, seeds=torch.tensor([2**40 + 1, 2**60 + 7], device=device))
    return _problem(operator, [x.bfloat16() for x in inputs], "y dx dupdate dnorm_weight dnorm_bias dw1 db1 dw2 db2")


def add_norm_problem(batch, length, width, *, device="cuda") -> Problem:
    """Returns `add_norm` of (B, S, D), a tenth of the elements of the update dropped."""
    normal = _normal(length, device)
    seed = torch.tensor(2**40 + 1, device=device)

    def operator(x, weight, bias, update, backend):
        r, y = add_norm(x, weight, bias, update=update, dropout=0.1, seed=seed, backend=backend)
        _, of_sum = add_norm(r, weight, bias, backend=backend)
        return r, y, add_dropped(of_sum, update, dropout=0.1, seed=seed + 1, backend=backend)

    shapes = [(batch, length, width), (width,), (width,), (batch, length, width)]
    return _problem(operator, [normal(*shape).bfloat16() for shape in shapes], "r y end dx dweight dbias dupdate")


def contrast_problem(batch, num_frames, width, *, device="cuda") -> Problem:
    """Returns the loss of `contrast` of (B, M, D), contexts that know something of their targets."""
    normal = _normal(num_frames, device)
    targets = normal(batch, num_frames, width)
    generator = torch.Generator(device).manual_seed(width)
    shape = (batch, num_frames, 4 * -(-num_frames // 4))
    words = torch.randint(3, shape, generator=generator, device=device, dtype=torch.uint8).view(torch.int32)
    ids = torch.randint(num_frames, shape[:2], generator=generator, device=device)
    temperature = torch.tensor(0.1, device=device)

    def operator(context, targets, backend):
        return contrast(context, targets, ids, words, temperature, backend=backend)[0]

    inputs = [(normal(*targets.shape) + 0.5 * targets).bfloat16(), targets.bfloat16()]
    return _problem(operator, inputs, "loss dcontext dtargets")


def norm_gelu_problem(batch, length, width, *, device="cuda") -> Problem:
    """Returns `norm_gelu` of (B, S, D), with all that may come before and after it."""
    normal = _normal(length, device)
    shapes = [(batch, length, width)] * 2 + [(width,)] * 5

    def operator(x, early, weight, bias, offset, *last, backend):
        return norm_gelu(x, weight, bias, early=early, offset=offset, last=last, backend=backend)

    names = "y dx dearly dweight dbias doffset dlast_weight dlast_bias"
    return _problem(operator, [normal(*shape).bfloat16() for shape in shapes], names)


def linear_norm_gelu_problem(batch, length, width, num_inputs=16, *, device="cuda") -> Problem:
    """Returns `linear_norm_gelu` of (B, S, C) to (B, S, D)."""
    normal = _normal(length, device)
    shapes = ((batch, length, num_inputs), (width, num_inputs), (width,), (width,))
    return _problem(linear_norm_gelu, [normal(*shape).bfloat16() for shape in shapes], "y dx dlinear dweight dbias")


def value_and_gradients(function: Callable, inputs: list[Tensor]) -> list[Tensor]:
    """Returns the outputs of a function and the gradients of its inputs, of a fixed random sum of the outputs."""
    out = function(*inputs)
    out = out if isinstance(out, tuple) else (out,)
    normal = _normal(1, inputs[0].device)
    loss = sum((x.double() * normal(*x.shape)).sum() for x in out)
    return [*out, *torch.autograd.grad(loss, inputs)]


def errors(
    problem: Problem, backend: str = "triton", least: float = 0.0, ceiling: float | None = None
) -> dict[str, tuple[float, float]]:
    """Returns name -> (||x - x_64|| / ||x_64|| of a backend, what is allowed): twice PyTorch's, from floor to ceiling.

    Args:
        problem: of one of the functions above.
        backend: of the operator.
        least: norm below which a quantity counts as the rounding error of terms that cancel in it.
        ceiling: of what is allowed; None: that of the problem.
    """
    plain = partial(problem.operator, backend="torch")
    exact = value_and_gradients(plain, [x.detach().double().requires_grad_() for x in problem.inputs])
    ours = value_and_gradients(partial(problem.operator, backend=backend), problem.inputs)
    ceiling = problem.ceiling if ceiling is None else ceiling
    found = {}
    for name, a, b, ref in zip(problem.names, ours, value_and_gradients(plain, problem.inputs), exact, strict=True):
        scale = ref.norm().clamp_min(max(least, 1e-30))
        error, of_plain = (((x.double() - ref).norm() / scale).item() for x in (a, b))
        found[name] = (error, min(max(2 * of_plain, FLOOR), ceiling))
    return found


def disagreements(found: dict[str, tuple[float, float]]) -> list[str]:
    """Returns a text for each of the `errors` that is larger than allowed, or no number."""
    return [f"{name} {error:.1e} (allowed {most:.1e})" for name, (error, most) in found.items() if not error <= most]


def _normal(seed, device):
    generator = torch.Generator(device).manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, device=device)


def _problem(operator, inputs, names):
    return Problem(operator, [x.requires_grad_() for x in inputs], names.split())
