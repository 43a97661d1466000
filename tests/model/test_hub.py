import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.backbone import Backbone
from model.classifier import SequenceClassifier
from model.config import BackboneConfig, HeadConfig
from model.detector import EventDetector
from model.hub import CONFIG, WEIGHTS, decode, from_pretrained, load_strict, save_pretrained
from model.picker import LABELS, PhasePicker
from model.pretrain import PretrainModel


@pytest.mark.parametrize("kind", ["gumbel", "ema", "fsq"])
def test_round_trip(pretrain, tmp_path, kind):
    net = pretrain({"negatives": "queue", "temperature_mode": "learned"}, kind=kind)
    net(torch.randn(2, 3, 256)).total.backward()
    save_pretrained(net, tmp_path / "new" / "folder", {"optim": {"lr": 0.1}})
    again = from_pretrained(tmp_path / "new" / "folder")
    assert type(again) is PretrainModel
    assert not again.training
    for part in ("model_config", "mask_config", "loss_config"):
        assert getattr(again, part) == getattr(net, part)
    x, ids = torch.randn(2, 3, 256), torch.arange(2)
    for a, b in zip(net.eval()(x, window_id=ids), again(x, window_id=ids), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert json.loads((tmp_path / "new" / "folder" / CONFIG).read_text())["run"] == {"optim": {"lr": 0.1}}


def test_picker_round_trip_and_shapes(tiny, tmp_path):
    picker = PhasePicker(tiny(), HeadConfig(width=24, kernel=5)).eval()
    save_pretrained(picker, tmp_path)
    again = from_pretrained(tmp_path)
    assert type(again) is PhasePicker
    assert again.head_config == picker.head_config
    for num_samples in (256, 301, 3001):
        x = torch.randn(2, 3, num_samples)
        probs = picker(x)
        assert probs.shape == (2, len(LABELS), num_samples)
        torch.testing.assert_close(probs.sum(1), torch.ones(2, num_samples))
        assert (probs == again(x)).all()
    torch.testing.assert_close(picker(x * 1e-9), picker(x), rtol=1e-3, atol=1e-4)


def test_picker_starts_from_pretraining(pretrain, tiny):
    net, picker = pretrain(), PhasePicker(tiny())
    picker.backbone.load_state_dict(net.backbone.state_dict())
    x = torch.randn(1, 3, 256)
    before = picker.eval()(x)
    torch.nn.functional.nll_loss(picker(x).log(), torch.randint(3, (1, 256))).backward()
    assert all(p.grad is not None for n, p in picker.named_parameters() if "mask_embedding" not in n)
    with torch.no_grad():
        picker.backbone.encoder.convs[0].weight.mul_(3)
    assert (picker(x) != before).any()


def test_picker_learns_to_place_an_onset(tiny):
    """An impulse at a random sample is found to the sample: the waveform beside the frames must be in use."""
    picker = PhasePicker(tiny(dropout=0.0), HeadConfig(width=16))
    optimizer = torch.optim.AdamW(picker.parameters(), lr=3e-3)
    for _ in range(50):
        x, onset = 0.02 * torch.randn(8, 3, 256), torch.randint(16, 240, (8,))
        x[torch.arange(8), :, onset] += 1
        label = torch.full((8, 256), 2)
        label[torch.arange(8), onset] = 0
        loss = torch.nn.functional.cross_entropy(picker.logits(x), label, weight=torch.tensor([50.0, 1.0, 1.0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (picker.eval()(x)[:, 0].argmax(-1) == onset).float().mean() > 0.8


def test_weights_that_do_not_fit_are_named(pretrain, tmp_path):
    save_pretrained(pretrain(), tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    state["head.wait"] = state.pop("head.weight")
    state["head.bias"] = torch.zeros(3)
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(
        ValueError, match=r"missing: head\.weight; unexpected: head\.wait; of another shape: head\.bias"
    ):
        from_pretrained(tmp_path)


def test_load_strict_accepts_what_fits(pretrain):
    one, two = pretrain(), pretrain()
    load_strict(two, one.state_dict())
    assert all((a == b).all() for a, b in zip(one.parameters(), two.parameters(), strict=True))


def edit(folder, change):
    content = json.loads((folder / CONFIG).read_text())
    change(content)
    (folder / CONFIG).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"]["backbone"].update(widht=3), r"model\.backbone\.widht is unknown: did you mean width"),
        (lambda c: c["model"]["quantizer"].update(kind="vq"), r"model\.quantizer\.kind='vq': choose one of gumbel"),
        (lambda c: c.pop("loss"), "lacks loss"),
        (lambda c: c.update({"class": "Unknown"}), "'Unknown'"),
    ],
)
def test_a_wrong_configuration_is_named(pretrain, tmp_path, change, message):
    save_pretrained(pretrain(), tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        from_pretrained(tmp_path)


def test_wrong_folders_and_wrapped_models_are_refused(pretrain, tmp_path):
    with pytest.raises(ValueError, match=CONFIG):
        from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot save a Sequential"):
        save_pretrained(torch.nn.Sequential(pretrain()), tmp_path)


def test_the_folder_holds_these_two_files(pretrain, tmp_path):
    """Whoever reads such a folder without this package looks for these names."""
    save_pretrained(pretrain(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["class"] == "PretrainModel"
    assert content["model"]["quantizer"]["num_codes"] == 16
    assert content["run"] is None


def test_decode_turns_lists_into_tuples():
    assert decode(BackboneConfig, {"pool": [2, 2]}, "backbone").pool == (2, 2)


def test_the_backbone_alone_is_a_model_too(tiny, tmp_path):
    backbone = Backbone(tiny()).eval()
    save_pretrained(backbone, tmp_path)
    x = torch.randn(2, 3, 256)
    assert torch.equal(from_pretrained(tmp_path)(x), backbone(x))


def test_annealed_temperatures_are_saved_with_the_model(pretrain, tmp_path):
    settings = {"temperature_mode": "annealed", "temperature": 0.4, "temperature_end": 0.1}
    net = pretrain(settings, gumbel_start=2.0, gumbel_end=0.5)
    net.set_schedule(0.75)
    save_pretrained(net, tmp_path)
    again = from_pretrained(tmp_path)
    assert net.comparison.temperature < 0.2
    assert again.comparison.temperature == net.comparison.temperature
    assert again.quantizer.temperature == net.quantizer.temperature


def test_a_run_is_its_newest_whole_checkpoint(pretrain, tmp_path):
    for number, step in enumerate(("step000000002", "step000000010", "step000000030.unfinished", "step000000040")):
        net = pretrain()
        with torch.no_grad():
            net.head.bias.fill_(number)
        save_pretrained(net, tmp_path / step)
    (tmp_path / "step000000040" / WEIGHTS).unlink()
    assert (from_pretrained(tmp_path).head.bias == 1).all()


def test_a_checkpoint_of_a_run_needs_no_class(pretrain, tmp_path):
    net = pretrain()
    save_pretrained(net, tmp_path)
    edit(tmp_path, lambda content: [content.pop("class"), content.update(optim={"lr": 1.0})])
    assert torch.equal(from_pretrained(tmp_path).head.weight, net.head.weight)


@pytest.mark.parametrize(
    ("task", "kind"), [("pick", PhasePicker), ("detect", EventDetector), ("classify", SequenceClassifier)]
)
def test_a_checkpoint_of_a_fine_tuned_run_is_the_network_of_its_task(tiny, tmp_path, task, kind):
    """Such a configuration holds the parts of every task, and no class."""
    net = kind(tiny(), HeadConfig(width=8, classes=("a", "b", "c"))).eval()
    save_pretrained(net, tmp_path)
    edit(tmp_path, lambda c: [c.pop("class"), c.update(task=task, loss={}, mask={}, optim={"lr": 1.0})])
    again = from_pretrained(tmp_path)
    assert type(again) is kind
    assert again.head_config == net.head_config
    x = torch.randn(2, 3, 256)
    assert torch.equal(again(x), net(x))
