"""Encoder, layer and U-Net against the same written out from PyTorch's own parts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model.backbone import Backbone
from model.config import BackboneConfig, EncoderConfig, ModelConfig
from model.encoder import WaveformEncoder
from model.unet import DownPool, Layer, UNet, UpPool


def shaken(module):
    """The module in float64 and evaluation mode, with every parameter moved, so that also what starts at 0 or 1 matters."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return module.double().eval()


def config(**fields):
    return BackboneConfig(**{"width": 16, "num_heads": 2, "num_layers": 2, "pool": (4, 2), "dropout": 0.0, **fields})


@pytest.mark.parametrize(("kernel", "stride", "layers"), [(3, 2, 2), (4, 3, 3), (5, 2, 2), (2, 2, 1)])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_encoder_is_convolution_norm_and_exact_gelu_and_a_last_norm(kernel, stride, layers, backend):
    fields = EncoderConfig(width=16, kernel=kernel, stride=stride, num_layers=layers)
    encoder = shaken(WaveformEncoder(fields, backend=backend))
    x = want = torch.randn(2, 3, 54, dtype=torch.float64)
    left = (kernel - 1) // 2
    for conv, norm in zip(encoder.convs, encoder.norms, strict=True):
        num_frames = want.shape[-1] // stride
        want = conv(F.pad(want, (left, kernel - 1 - left)))[..., :num_frames]
        want = F.gelu(F.layer_norm(want.mT, (16,), norm.weight, norm.bias, 1e-5)).mT
    norm = encoder.final_norm
    want = F.layer_norm(want.mT, (16,), norm.weight, norm.bias, 1e-5)
    assert want.shape[1] == 54 // stride**layers
    torch.testing.assert_close(encoder(x), want, rtol=1e-10, atol=1e-10)


def test_encoder_passes_on_the_dtype_of_autocast():
    encoder = WaveformEncoder(EncoderConfig(width=16))
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(torch.randn(1, 3, 64)).dtype == torch.bfloat16


def test_layer_adds_mixer_and_feed_forward_net_each_of_its_normed_input():
    layer = shaken(Layer(16, config(), 3))
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    between = x + layer.mixer(F.layer_norm(x, (16,), layer.norm_mixer.weight, layer.norm_mixer.bias))
    hidden = F.linear(F.layer_norm(between, (16,), layer.norm_ffn.weight, layer.norm_ffn.bias), layer.ffn[0].weight)
    want = between + F.linear(F.gelu(hidden + layer.ffn[0].bias), layer.ffn[2].weight, layer.ffn[2].bias)
    torch.testing.assert_close(layer(x), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("silent", ["mixer", "ffn"])
def test_each_branch_is_dropped_at_the_rate_of_the_configuration(silent):
    """With one branch silent the other is lost in a quarter of the elements, and a third larger in the rest."""
    layer = Layer(16, config(dropout=0.25), 3)
    nn.init.zeros_((layer.mixer.proj_down if silent == "mixer" else layer.ffn[2]).weight)
    x = torch.randn(4, 256, 16)
    update, whole = layer(x) - x, layer.eval()(x) - x
    kept = update != 0
    assert kept.float().mean() == pytest.approx(0.75, abs=0.02)
    torch.testing.assert_close(update[kept], whole[kept] / 0.75, rtol=1e-3, atol=1e-5)


def test_poolings_fold_frames_side_by_side_and_unfold_them_in_order():
    down, up = DownPool(3, 5, 4), UpPool(5, 3, 4)
    x, skip = torch.randn(2, 8, 3), torch.randn(2, 8, 3)
    coarse = down(x)
    assert coarse.shape == (2, 2, 5)
    for s in range(2):
        together = torch.cat([x[:, 4 * s + j] for j in range(4)], dim=-1)
        torch.testing.assert_close(coarse[:, s], down.linear(together))
    fine = up(coarse, skip)
    for t in range(8):
        mapped = up.linear(coarse[:, t // 4])[:, 3 * (t % 4) : 3 * (t % 4) + 3]
        torch.testing.assert_close(fine[:, t], skip[:, t] + mapped)


def test_unet_is_stages_around_a_coarser_unet():
    """Level by level: layers, the coarser level within, its way back added to what the layers left, layers, at the end a norm."""
    net = shaken(UNet(config()))

    def stage(layers, x):
        for layer in layers:
            x = layer(x)
        return x

    def level(number, x):
        if number == 2:
            return stage(net.bottom, x)
        x = stage(net.down[number], x)
        inner = level(number + 1, net.down_pool[number](x))
        return stage(net.up[1 - number], net.up_pool[1 - number](inner, x))

    x = torch.randn(2, 16, 16, dtype=torch.float64)
    want = F.layer_norm(level(0, x), (16,), net.final_norm.weight, net.final_norm.bias)
    torch.testing.assert_close(net(x), want, rtol=1e-10, atol=1e-10)
    assert [pool.factor for pool in net.down_pool] == [4, 2]
    assert [pool.factor for pool in net.up_pool] == [2, 4]


def test_every_width_follows_the_configuration():
    """No number is that of the defaults, and no two are the same."""
    fields = config(expand=3, up_factor=1.5, conv_kernel=5, qkv_block=2, num_heads=6, ffn_factor=1.25)
    net = UNet(fields)
    for layers, width in zip([*net.down, net.bottom, *net.up], (16, 48, 144, 48, 16), strict=True):
        mixer, inner = layers[0].mixer, width * 3 // 2
        assert len(layers) == 2
        assert mixer.proj_up.weight.shape == (2 * inner, width)
        assert mixer.conv1d.conv.weight.shape == (inner, 1, 5)
        for maps in (mixer.q_proj, mixer.k_proj, mixer.v_proj):
            assert maps.weight.shape == (inner // 2, 2, 2)
        assert mixer.mlstm_cell.igate.weight.shape == mixer.mlstm_cell.fgate.weight.shape == (6, 3 * inner)
        assert layers[0].ffn[0].weight.shape == (fields.ffn_width(width), width)
    assert net(torch.randn(1, 16, 16)).shape == (1, 16, 16)


def test_a_mask_starts_as_a_vector_between_zero_and_one():
    mask = Backbone(ModelConfig()).mask_embedding
    assert 0 <= mask.min() < 0.2 < 0.8 < mask.max() < 1


def test_waveforms_that_do_not_fold_to_the_coarsest_level_are_refused(tiny):
    backbone = Backbone(tiny())
    assert backbone(torch.randn(1, 3, 128)).shape == (1, 32, 32)
    with pytest.raises(ValueError, match="132 samples is not a multiple of 64"):
        backbone(torch.randn(1, 3, 132))


def test_layers_start_with_the_published_spreads_for_the_depth_of_the_whole_net():
    """Into a branch sqrt(2 / 5 D), out of it 2 / blocks / sqrt(D), for the 10 blocks of two layers a stage."""
    net = UNet(config(width=64, num_heads=4))
    for layers, width in zip([*net.down, net.bottom, *net.up], (64, 128, 256, 128, 64), strict=True):
        narrow, wide = (2 / (5 * width)) ** 0.5, 2 / 10 / width**0.5
        for weight, spread in (
            (layers[0].ffn[0].weight, narrow),
            (layers[0].mixer.proj_up.weight, narrow),
            (layers[0].ffn[2].weight, wide),
            (layers[0].mixer.proj_down.weight, wide),
        ):
            assert weight.std().item() == pytest.approx(spread, rel=0.05)
        assert not any(layers[0].ffn[i].bias.any() for i in (0, 2))
