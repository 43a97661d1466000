"""The layer against xlstm.mLSTMLayer: same weights, same outputs, same gradients."""

import pytest
import torch
from xlstm.blocks.mlstm.layer import mLSTMLayer, mLSTMLayerConfig

from model.config import BackboneConfig
from model.mlstm import BACKWARD, FORWARD, MLSTMLayer, SeparateDirections, bidirectional_mlstm

WIDTH, HEADS, FRAMES = 32, 4, 19


def theirs():
    layer = mLSTMLayer(mLSTMLayerConfig(embedding_dim=WIDTH, num_heads=HEADS, context_length=FRAMES))
    with torch.no_grad():
        for parameter in layer.parameters():
            # Also what starts at zero must matter: gates and norm.
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return layer.double()


def config(**fields):
    return BackboneConfig(width=WIDTH, num_heads=HEADS, **{"gate_cap": None, **fields})


def flipped(layer, x):
    return layer(x.flip(1)).flip(1)


def assert_equal(ours, expected_output, x, pairs):
    """Compares outputs and gradients of the input and of (our, their) parameter pairs."""
    cotangent = torch.randn_like(expected_output)
    output = ours(x)
    torch.testing.assert_close(output, expected_output, rtol=1e-9, atol=1e-9)
    want = torch.autograd.grad(expected_output, [x] + [b for _, b in pairs], cotangent)
    have = torch.autograd.grad(output, [x] + [a for a, _ in pairs], cotangent)
    for a, b in zip(have, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-8)


def parameter_pairs(ours, theirs):
    other = dict(theirs.named_parameters())
    return [(p, other[name]) for name, p in ours.named_parameters()]


def test_forward_only_is_xlstm():
    reference, x = theirs(), torch.randn(2, FRAMES, WIDTH, dtype=torch.float64, requires_grad=True)
    layer = MLSTMLayer(WIDTH, config(), directions=(FORWARD,)).double()
    layer.load_state_dict(reference.state_dict(), strict=True)
    assert_equal(layer, reference(x), x, parameter_pairs(layer, reference))


@pytest.mark.parametrize("kernel", ["auto", "reference"])
def test_backward_only_is_xlstm_of_the_record_turned_around(kernel):
    reference, x = theirs(), torch.randn(2, FRAMES, WIDTH, dtype=torch.float64, requires_grad=True)
    layer = MLSTMLayer(WIDTH, config(kernel=kernel), directions=(BACKWARD,)).double()
    layer.load_state_dict(reference.state_dict(), strict=True)
    assert_equal(layer, flipped(reference, x), x, parameter_pairs(layer, reference))


def test_shared_weights_are_xlstm_in_both_directions():
    reference, x = theirs(), torch.randn(2, FRAMES, WIDTH, dtype=torch.float64, requires_grad=True)
    layer = MLSTMLayer(WIDTH, config()).double()
    layer.load_state_dict(reference.state_dict(), strict=True)
    assert_equal(layer, reference(x) + flipped(reference, x), x, parameter_pairs(layer, reference))


def test_separate_weights_are_two_xlstm_layers():
    ahead, back = theirs(), theirs()
    x = torch.randn(2, FRAMES, WIDTH, dtype=torch.float64, requires_grad=True)
    layer = SeparateDirections(WIDTH, config()).double()
    layer.ahead.load_state_dict(ahead.state_dict(), strict=True)
    layer.back.load_state_dict(back.state_dict(), strict=True)
    pairs = parameter_pairs(layer.ahead, ahead) + parameter_pairs(layer.back, back)
    assert_equal(layer, ahead(x) + flipped(back, x), x, pairs)


def test_our_state_dict_loads_into_xlstm():
    loaded = theirs().load_state_dict(MLSTMLayer(WIDTH, config()).double().state_dict(), strict=False)
    assert not loaded.missing_keys
    assert not loaded.unexpected_keys


def test_initialisation_is_that_of_xlstm():
    big = mLSTMLayer(mLSTMLayerConfig(embedding_dim=256, num_heads=HEADS, context_length=1, _num_blocks=15))
    ours = dict(MLSTMLayer(256, config(), num_blocks=15).named_parameters())
    for name, parameter in big.named_parameters():
        if name == "mlstm_cell.igate.bias":  # four random numbers around zero
            assert ours[name].abs().max() < 0.6
            continue
        assert abs(ours[name].mean() - parameter.mean()) < 0.02, name
        assert abs(ours[name].std() - parameter.std()) <= 0.1 * parameter.std(), name


@pytest.mark.parametrize("directions", ["shared", "separate"])
def test_gates_are_capped(directions):
    """With a cap a huge gate weight cannot make the cell blow up, and small pre-activations hardly change."""
    x = torch.randn(1, FRAMES, WIDTH)
    layer = bidirectional_mlstm(WIDTH, config(gate_cap=15.0, direction_weights=directions), 1)
    open_layer = bidirectional_mlstm(WIDTH, config(direction_weights=directions), 1)
    open_layer.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), open_layer(x), rtol=0.1, atol=0.05)
    assert (layer(x) != open_layer(x)).any()
    for one in (m for model in (layer, open_layer) for m in model.modules() if isinstance(m, MLSTMLayer)):
        torch.nn.init.normal_(one.mlstm_cell.igate.weight, std=1e5)
        (*_, igate, _fgate), _conv, _z = one.before_cell(x)
        assert (igate.abs().max() <= 15) == (one.config.gate_cap is not None)


@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("directions", ["shared", "separate"])
def test_gates_are_the_cap_times_a_hyperbolic_tangent(cap, directions):
    """Both gates of both directions, against the same layer without a cap."""
    layer = bidirectional_mlstm(WIDTH, config(gate_cap=cap, direction_weights=directions), 1)
    plain = bidirectional_mlstm(WIDTH, config(direction_weights=directions), 1)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1, FRAMES, WIDTH)
    pairs = [(layer, plain)] if directions == "shared" else [(layer.ahead, plain.ahead), (layer.back, plain.back)]
    for capped, open_layer in pairs:
        for gate, raw in zip(capped.before_cell(x)[0][3:], open_layer.before_cell(x)[0][3:], strict=True):
            torch.testing.assert_close(gate, raw if cap is None else cap * torch.tanh(raw / cap))


@pytest.mark.parametrize("directions", ["shared", "separate"])
def test_the_kernel_of_the_configuration_runs_the_cell(directions):
    """Recurrence and chunks differ in their last bits alone, and both are what the configuration asks for."""
    x = torch.randn(1, 70, WIDTH)
    fields = [config(kernel=name, direction_weights=directions) for name in ("reference", "torch", "auto")]
    layers = {field.kernel: bidirectional_mlstm(WIDTH, field, 1) for field in fields}
    for layer in layers.values():
        layer.load_state_dict(layers["auto"].state_dict())
    reference, torch_, auto = (layer(x) for layer in layers.values())
    assert torch.equal(torch_, auto)
    assert not torch.equal(reference, auto)
    torch.testing.assert_close(reference, auto, rtol=1e-4, atol=1e-4)


def test_forget_gates_start_between_three_and_six_and_input_gates_near_zero():
    biases = [MLSTMLayer(WIDTH, config()).mlstm_cell.igate.bias for _ in range(50)]
    assert torch.cat(biases).std().item() == pytest.approx(0.1, rel=0.2)
    assert MLSTMLayer(WIDTH, config()).mlstm_cell.fgate.bias.tolist() == [3, 4, 5, 6]
