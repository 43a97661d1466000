"""Losses and gradient norms of one small batch under every option: numbers that no refactor may move.

The batch has a full window, one padded in the middle of a frame, one padded at a frame's edge, and a dead one. Weights and
waveforms are fractions of integers, and all that is random is a function of the window: other processors find the same.
"""

import pytest
import torch

from model.config import BackboneConfig, EncoderConfig, LossConfig, MaskConfig, ModelConfig, QuantizerConfig
from model.pretrain import PretrainModel

NUM_VALID = torch.tensor([128, 90, 64, 128])
WINDOW_ID = torch.tensor([3, 2**35 + 1, 77, 5])
IN_FLOAT32 = ("ema", "residual", "fsq")
"""Quantizers whose library computes in float32; with all others the model runs in float64."""


def scattered(shape, number):
    """Returns numbers in [-1, 1], multiples of 1 / 128 that look random."""
    place = torch.arange(torch.Size(shape).numel()).view(shape)
    return (7919 * place * (place + number) + place**3 + 31 * number) % 257 / 128 - 1


def batch():
    """Returns the waveforms; the last one is constant."""
    waveform = scattered((4, 3, 128), 11).double()
    waveform[3] = 0.7
    return waveform


def fix(net):
    """Sets weights, codebooks and memory bank, all but scalars, to scattered numbers of about their usual spread."""
    tensors = [x for x in (*net.parameters(), *net.buffers()) if x.ndim and x.is_floating_point()]
    for number, x in enumerate(tensors):
        start = x.flatten()[0] if (x == x.flatten()[0]).all() else 0
        spread = 0.4 if x.ndim == 1 else x.shape[-1] ** -0.5
        x.data.copy_(start + spread * scattered(x.shape, number))


def build(progress=0.0, mode="exact", direction_weights="shared", **fields):
    """Returns the model with options of mask, backbone, quantizer and loss, at `progress` of its schedules."""
    codes = {"num_codes": 320 if fields.get("kind") == "fsq" else 12, "code_dim": 8}
    codes |= {key: fields.pop(key) for key in ("kind", "logits", "scale_logits") if key in fields}
    model = ModelConfig(
        window_samples=128,
        encoder=EncoderConfig(width=16),
        backbone=BackboneConfig(
            width=16, num_heads=2, num_layers=1, pool=(4, 2), dropout=0.0, direction_weights=direction_weights
        ),
        quantizer=QuantizerConfig(**codes),
        target_dim=10,
    )
    loss = LossConfig(**{"num_negatives": 7, "diversity_lambda": 2.0, "pool_frames": 24, "queue_frames": 30, **fields})
    net = PretrainModel(model, MaskConfig(span_frames=4, mode=mode), loss)
    fix(net)
    if model.quantizer.kind not in IN_FLOAT32:
        net.double().backbone.encoder.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    if loss.temperature_mode == "learned":
        net.comparison.log_temperature.data.fill_(-1.75)
    net.set_schedule(progress)
    return net


def found(training=True, window_weight=None, **options):
    """Returns contrastive, diversity, auxiliary loss, accuracy; gradient norms of the backbone and of the rest."""
    net = build(**options).train(training)
    weight = None if window_weight is None else torch.tensor(window_weight)
    losses = net(batch(), NUM_VALID, weight, window_id=WINDOW_ID)
    losses.total.backward()
    parts = ([], [])
    for name, parameter in net.named_parameters():
        parts[not name.startswith("backbone")].append(parameter.grad.flatten())
    norms = (torch.cat(part).norm() for part in parts)
    return [x.item() for x in (losses.contrastive, losses.diversity, losses.auxiliary, losses.accuracy, *norms)]


PINNED = [
    ({}, [2.4025504267, 0.091819701847, 0, 0.15384615385, 2.3670869831, 2.2743707861]),
    ({"logits": "distance"}, [2.6316151736, 0.17901728764, 0, 0.11538461538, 4.4436228739, 3.3879857967]),
    ({"scale_logits": True}, [2.4059195795, 0.006380226555, 0, 0.15384615385, 1.8534900941, 2.0156132056]),
    ({"kind": "hierarchical"}, [2.6964533638, 0.055320962428, 0, 0.13461538462, 3.2561766069, 2.7102284299]),
    ({"kind": "none"}, [3.4495720921, 0, 0, 0.17307692308, 9.0441312506, 10.649146231]),
    ({"kind": "ema"}, [2.515683, 0.6567295, 0.5128157, 0.1346154, 6.650545, 2.952247]),
    ({"kind": "residual"}, [1.844994, 0.7233278, 0.1750233, 0.2884616, 2.511391, 2.277643]),
    ({"kind": "fsq"}, [2.430303, 0.9360657, 0, 0.1730769, 2.923083, 2.97002]),
    ({"negatives": "expected"}, [2.5158776235, 0.091819701847, 0, 0.076923076923, 2.5041211428, 2.7415470342]),
    ({"negatives": "pool"}, [2.509192457, 0.091819701847, 0, 0.019230769231, 2.6946148804, 2.8502782233]),
    ({"negatives": "mixed"}, [2.4479362762, 0.091819701847, 0, 0.019230769231, 2.8868597803, 2.5997558014]),
    ({"negatives": "hard"}, [3.0770764518, 0.091819701847, 0, 0.076923076923, 3.207089116, 3.7639083427]),
    ({"negatives": "queue"}, [2.6690226729, 0.091819701847, 0, 0.076923076923, 23.929441409, 16.049323107]),
    ({"similarity": "dot"}, [3.3652880401, 0.091819701847, 0, 0.13461538462, 10.980393793, 8.147188956]),
    ({"similarity": "l2"}, [5.2940365405, 0.091819701847, 0, 0.15384615385, 20.229896852, 16.324722728]),
    (
        {"similarity": "l2", "negatives": "mixed"},
        [5.9678804025, 0.091819701847, 0, 0.057692307692, 26.331573556, 20.473184038],
    ),
    ({"diversity": "entropy"}, [2.4025504267, 0.096490943346, 0, 0.15384615385, 2.3736008853, 2.2907733468]),
    ({"frames": "all"}, [2.4253610775, 0.095772979891, 0, 0.15384615385, 1.9098101782, 2.5233570714]),
    ({"progress": 0.3}, [2.4025504267, 0.091819701847, 0, 0.15384615385, 2.3676895701, 2.2765775508]),
    (
        {"temperature_mode": "annealed", "temperature_end": 0.4, "progress": 0.3},
        [2.1907127391, 0.091819701847, 0, 0.15384615385, 1.311270019, 1.1538065357],
    ),
    ({"temperature_mode": "learned"}, [2.1731883604, 0.091819701847, 0, 0.15384615385, 1.2119627317, 1.0846038595]),
    ({"direction_weights": "separate"}, [2.3518737588, 0.12158155338, 0, 0.26923076923, 2.4308426502, 1.7557058879]),
    ({"mode": "wav2vec2"}, [2.432491481, 0.10381880152, 0, 0.22580645161, 2.7006278258, 2.4831592036]),
    (
        {"window_weight": [0.5, 2.0, 1.0, 3.0]},
        [2.378504438, 0.088629975541, 0, 0.15447154472, 2.1165229438, 1.9808066243],
    ),
    ({"training": False}, [2.3748919037, 0.091819701847, 0, 0.076923076923, 1.6774380835, 2.428117546]),
    (
        {"training": False, "negatives": "queue"},
        [2.8767335311, 0.091819701847, 0, 0.038461538462, 29.690009621, 19.319371259],
    ),
]
"""Options -> contrastive, diversity, auxiliary loss, accuracy; gradient norms of backbone and of the rest."""


NAMES = ["-".join(map(str, options.values())) or "default" for options, _ in PINNED]


@pytest.mark.parametrize(("options", "want"), PINNED, ids=NAMES)
def test_numbers_of_an_option(options, want):
    """Loss parts to 1e-9; gradient norms to 1e-6, since Gumbel noise is float32."""
    parts, norms = (1e-5, 1e-5) if options.get("kind") in IN_FLOAT32 else (1e-9, 1e-6)
    have = found(**options)
    assert have[:4] == pytest.approx(want[:4], rel=parts, abs=1e-12)
    assert have[4:] == pytest.approx(want[4:], rel=norms)


def test_scores_of_the_fixed_task():
    """Half of the frames, in spans of ten, among a hundred negatives: 24 windows, of which half are padded from frame 23 on."""
    num_valid = torch.tensor([128, 90]).repeat(12)
    score, frames = build().eval().top1_tie(scattered((24, 3, 128), 5), torch.arange(24), num_valid)
    assert frames.tolist() == [
        16,
        16,
        16,
        15,
        16,
        10,
        16,
        14,
        16,
        8,
        16,
        10,
        16,
        7,
        16,
        10,
        16,
        10,
        16,
        11,
        16,
        11,
        16,
        7,
    ]
    assert score.sum().item() == pytest.approx(27.479156, rel=1e-6)
