"""Shapes and parameter counts of the whole network at its real size."""

import pytest
import torch
import torch.nn.functional as F

from model.backbone import Backbone
from model.config import BackboneConfig, EncoderConfig, LossConfig, MaskConfig, ModelConfig
from model.encoder import WaveformEncoder, folded_conv, unfolded_conv
from model.pretrain import PretrainModel
from model.unet import UNet


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts():
    with torch.device("meta"):
        unet = UNet(BackboneConfig())
    assert count(unet.down[0][0]) == 163_416
    assert count(unet.down[1][0]) == 629_928
    assert count(unet.bottom[0]) == 2_464_064
    net = PretrainModel(ModelConfig(), MaskConfig(), LossConfig())
    assert count(net.quantizer) == 81_920 + (256 * 640 + 640) + (256 * 256 + 256)
    assert count(net) == 14_044_736


def test_frames_and_levels():
    config = ModelConfig()
    assert WaveformEncoder(config.encoder)(torch.randn(1, 3, 4096)).shape == (1, 1024, 256)
    backbone = Backbone(config)
    shapes = []
    for stage in [*backbone.unet.down, backbone.unet.bottom, *backbone.unet.up]:
        stage[-1].register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    with torch.no_grad():
        assert backbone(torch.randn(1, 3, 4096)).shape == (1, 1024, 128)
    assert shapes == [(1024, 128), (256, 256), (64, 512), (256, 256), (1024, 128)]


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (4, 4), (5, 3)])
def test_unfolded_convolution_is_the_library_convolution(kernel, stride, channels):
    def ours(x, conv):
        return F.linear(*unfolded_conv(x, conv), conv.bias)

    assert_is_convolution(ours, channels, kernel, stride)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 3), (4, 3)])
def test_folded_convolution_is_the_library_convolution(kernel, stride):
    def ours(x, conv):
        own, early = folded_conv(x, conv)
        return own + F.pad(early[:, :-1], (0, 0, 1, 0)) + conv.bias

    assert_is_convolution(ours, 16, kernel, stride)


def assert_is_convolution(ours, channels, kernel, stride):
    conv = torch.nn.Conv1d(channels, 7, kernel, stride).double()
    x = torch.randn(2, 65, channels, dtype=torch.float64, requires_grad=True)
    left = (kernel - 1) // 2
    found = []
    for out in (ours(x, conv), conv(F.pad(x.mT, (left, kernel - 1 - left)))[..., : 65 // stride].mT):
        found.append([out, *torch.autograd.grad(out.square().sum(), [x, *conv.parameters()])])
    torch.testing.assert_close(*found)


def test_frames_see_both_past_and_future():
    backbone = UNet(BackboneConfig(width=32, num_layers=1, num_heads=2)).eval()
    x = torch.randn(1, 64, 32, requires_grad=True)
    (backbone(x)[0, 32] * torch.arange(32)).sum().backward()  # the plain sum of normalised channels is constant
    reach = x.grad[0].abs().sum(1)
    assert (reach[:16] > 0).all()
    assert (reach[48:] > 0).all()


def test_hidden_frames_tell_the_backbone_nothing():
    config = ModelConfig(
        window_samples=256,
        encoder=EncoderConfig(width=32),
        backbone=BackboneConfig(width=32, num_layers=1, num_heads=2),
    )
    backbone = Backbone(config).eval()
    features, masked = torch.randn(2, 64, 32), torch.rand(2, 64) < 0.6
    other = torch.where(masked[..., None], torch.randn_like(features), features)
    torch.testing.assert_close(backbone.context(features, masked), backbone.context(other, masked))
    assert (backbone.context(features) != backbone.context(other)).any()
