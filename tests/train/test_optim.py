"""The optimiser: who decays, who learns how fast, what a step does, and which steps are not taken."""

import math
import re

import numpy as np
import pytest
import torch
from torch import nn

from model.pretrain import PretrainModel
from raysys.config import OptimConfig
from raysys.presets import PRESETS
from raysys.train.optim import StepGuard, build_optimizer, lr_factor, set_lr

CPU = torch.device("cpu")
SMOKE = PRESETS["smoke"]()
DECAYS = (
    r"head\.weight|backbone\.project\.weight|backbone\.encoder\.convs\.\d\.weight"
    r"|.*\.(proj_up|proj_down|q_proj|k_proj|v_proj|ffn\.[02]|(up|down)_pool\.\d\.linear)\.weight"
    r"|quantizer\.(logits|output)\.weight"
)
KEEPS = (
    r".*\.bias|.*norm\w*(\.\d)?\.weight|.*\.learnable_skip|.*\.conv1d\.conv\.weight|.*\.(igate|fgate)\.weight"
    r"|backbone\.mask_embedding|quantizer\.codebook|comparison\.log_temperature"
)
"""Biases, norms, gates, the causal convolution, and numbers that are no maps."""


@pytest.mark.parametrize(("quantizer_lr", "expected"), [(None, 0.004), (0.03, 0.03), (0.0, 0.0)])
def test_every_parameter_has_the_decay_and_the_rate_of_its_kind(quantizer_lr, expected):
    values = {"loss.temperature_mode": "learned", "optim.lr": 0.004, "optim.weight_decay": 0.3}
    config = SMOKE.override(values | {"optim.quantizer_lr": quantizer_lr})
    model = PretrainModel(config.model, config.mask, config.loss)
    optimizer = build_optimizer(model, config.optim, CPU)
    set_lr(optimizer, 0.5)
    found = {p: group for group in optimizer.param_groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in optimizer.param_groups)
    for name, parameter in model.named_parameters():
        decays = bool(re.fullmatch(DECAYS, name))
        assert decays != bool(re.fullmatch(KEEPS, name)), name
        group = found[parameter]
        assert group["weight_decay"] == (0.3 if decays else 0.0), name
        rate = 0.5 * (expected if name.startswith("quantizer.") else 0.004)
        assert group["lr"].item() == pytest.approx(rate), name


def test_frozen_parameters_are_left_alone():
    model = nn.ModuleDict({"free": nn.Linear(2, 2), "frozen": nn.Linear(2, 2).requires_grad_(False)})
    optimizer = build_optimizer(model, SMOKE.optim, CPU)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model["free"].parameters()}


@pytest.mark.parametrize(
    ("progress", "warmup", "factor"),
    [
        (0.0, 0.2, 0.0),
        (0.05, 0.2, 0.25),
        (0.2, 0.2, 1.0),
        (0.4, 0.2, (2 + math.sqrt(2)) / 4),
        (0.6, 0.2, 0.5),
        (0.75, 0.25, 0.25),
        (1.0, 0.2, 0.0),
        (1.3, 0.2, 0.0),
        (0.0, 0.0, 1.0),
        (0.5, 0.0, 0.5),
    ],
)
def test_the_rate_rises_in_a_line_and_falls_in_a_cosine_to_zero(progress, warmup, factor):
    assert lr_factor(progress, warmup) == pytest.approx(factor, rel=1e-12, abs=1e-15)


def one_group(config: OptimConfig, values: list[float]):
    """Returns a parameter (1, n) that decays and its optimiser."""
    layer = nn.Linear(len(values), 1, bias=False)
    layer.weight.data.copy_(torch.tensor([values]))
    optimizer = build_optimizer(layer, config, CPU)
    set_lr(optimizer, 0.5)
    return layer.weight, optimizer


def test_steps_are_those_of_adamw_on_the_clipped_gradient(double):
    """Against Loshchilov & Hutter 2019, algorithm 2, in NumPy; the first gradient is clipped, the second is not."""
    config = OptimConfig(lr=0.02, betas=(0.8, 0.9), weight_decay=0.3)
    parameter, optimizer = one_group(config, [1.0, -2.0, 3.0])
    guard = StepGuard(CPU)
    expected, m, v = np.array([1.0, -2.0, 3.0]), np.zeros(3), np.zeros(3)
    for step, gradient in enumerate(([3.0, 0.0, -4.0], [0.3, 0.2, 0.1]), start=1):
        parameter.grad = torch.tensor([gradient])
        norm = optimizer.grad_norm()
        assert norm.item() == pytest.approx(math.dist(gradient, [0] * 3))
        guard.step(optimizer, norm, 2.0)
        g = np.array(gradient) * min(1.0, 2.0 / np.linalg.norm(gradient))
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        rate = 0.01
        expected = expected - rate * 0.3 * expected
        expected = expected - rate * (m / (1 - 0.8**step)) / (np.sqrt(v / (1 - 0.9**step)) + 1e-8)
        np.testing.assert_allclose(parameter.detach().numpy()[0], expected, rtol=1e-7)
        np.testing.assert_allclose(optimizer.state[parameter]["exp_avg"].numpy()[0], m, rtol=1e-5)


def test_spikes_and_nans_are_skipped_counted_and_kept_out_of_the_mean():
    parameter, optimizer = one_group(OptimConfig(), [1.0])
    guard = StepGuard(CPU)
    for norm, taken, mean, skipped, in_a_row in (
        (math.nan, False, 0.0, 1, 1),
        (1.0, True, 1.0, 1, 0),
        (2.0, True, 1.02, 1, 0),
        (20.5, False, 1.02, 2, 1),
        (math.inf, False, 1.02, 3, 2),
        (20.3, True, 1.02 + 0.02 * (20.3 - 1.02), 3, 0),
        (0.0, True, 0.98 * (1.02 + 0.02 * (20.3 - 1.02)), 3, 0),
    ):
        before = parameter.item()
        parameter.grad = torch.full_like(parameter, norm)
        guard.step(optimizer, torch.tensor(norm), 1.0)
        assert (parameter.item() != before) == taken, norm
        assert guard.mean_norm.item() == pytest.approx(mean, rel=1e-6), norm
        assert (guard.skipped.item(), guard.in_a_row.item()) == (skipped, in_a_row), norm
    other = StepGuard(CPU)
    other.load({name: value.clone() for name, value in guard.state().items()})
    assert other.state() == guard.state()
    assert len({value.item() for value in other.state().values()}) == 3, "three numbers that tell each other apart"
