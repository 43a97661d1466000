"""The measure by which kernels are held against fp64 on a user's GPU."""

import pytest
import torch

from model.ops import agreement
from model.ops.agreement import CEILING, FLOOR, Problem, disagreements, errors


def problem(factor, ceiling=CEILING):
    """y = x w, of which the kernels make `factor` times as much; and its gradients."""

    def operator(x, w, backend):
        return x * w * (factor if backend == "triton" else 1.0)

    normal = torch.Generator().manual_seed(0)
    inputs = [torch.randn(500, generator=normal).bfloat16().requires_grad_() for _ in range(2)]
    return Problem(operator, inputs, ["y", "dx", "dw"], ceiling)


def test_the_error_is_relative_to_fp64():
    found = errors(problem(1.03))
    assert list(found) == ["y", "dx", "dw"]
    for error, most in found.values():
        assert error == pytest.approx(0.03, abs=4e-3)
        assert FLOOR <= most <= CEILING


def test_what_is_off_by_more_than_allowed_is_named():
    assert disagreements(errors(problem(1.0))) == []
    assert [text.split()[0] for text in disagreements(errors(problem(1.03)))] == ["y", "dx", "dw"]
    assert [text.split()[0] for text in disagreements(errors(problem(float("nan"))))] == ["y", "dx", "dw"]


def test_twice_the_error_of_plain_pytorch_is_allowed_from_floor_to_ceiling():
    class Rounded(torch.autograd.Function):
        """All but 1 % of x: a coarse operator."""

        @staticmethod
        def forward(ctx, x):
            return x if x.dtype == torch.float64 else x * 0.99

        @staticmethod
        def backward(ctx, grad):
            return grad

    x = [torch.randn(300, requires_grad=True)]
    of = lambda *rest: errors(Problem(lambda x, backend: Rounded.apply(x), x, ["y", "dx"], *rest))  # noqa: E731
    assert [most for _, most in of(1.0).values()] == pytest.approx([0.02, FLOOR], rel=1e-3)
    assert [most for _, most in of(0.015).values()] == pytest.approx([0.015, FLOOR], rel=1e-3)


def test_what_cancels_is_measured_against_the_least_norm():
    (error, _), *_ = errors(problem(1.03), least=1e6).values()
    assert error < 1e-5


@pytest.mark.parametrize(
    "made",
    [
        agreement.add_norm_problem(2, 5, 16, device="cpu"),
        agreement.feed_forward_problem(2, 5, 16, 24, device="cpu"),
        agreement.contrast_problem(2, 7, 16, device="cpu"),
        agreement.mlstm_mixer_problem(1, 5, 32, 2, device="cpu"),
        agreement.norm_gelu_problem(2, 5, 16, device="cpu"),
        agreement.linear_norm_gelu_problem(2, 5, 16, device="cpu"),
    ],
    ids=lambda made: getattr(made.operator, "__name__", "partial"),
)
def test_every_output_and_gradient_of_a_problem_has_its_name(made):
    assert len(errors(made, backend="torch")) == len(made.names)
