"""What wins by validation loss without having learnt anything does not win the sweep."""

import pandas as pd
import pytest
import torch

from raysys.train.data import prepare_training_data
from raysys.train.loop import Trainer
from raysys.train.validate import validate
from raysys.tune.ranking import judge, ranked
from tests.train.local import local_trainer

CPU = torch.device("cpu")
CHANCE = 1 / 101
"""Of val/top1_tie: one right frame among 100 negatives."""


@pytest.fixture(scope="module")
def setting(smoke):
    """A training long enough for the label-free score to rise above chance by more than seeds differ; validation at its end."""
    return smoke.override(
        {
            "optim.lr": 1e-2,
            "train.max_steps": 300,
            "train.validate_every": 300,
            "train.val_windows": 64,
            "probe.fit_windows": 128,
            "probe.score_windows": 64,
            "search.objective": "val/top1_tie",
        }
    )


@pytest.fixture(scope="module")
def data(setting):
    return prepare_training_data(setting)


def trained(config, data, folder) -> tuple[Trainer, dict]:
    """A trainer after its training, and the metrics of its last validation."""
    trainer = local_trainer(config, data, folder)
    return trainer, trainer.run()


@pytest.fixture(scope="module")
def honest(setting, data, tmp_path_factory):
    return trained(setting, data, tmp_path_factory.mktemp("honest"))


def row(name, metrics, config) -> dict:
    return {"trial": name, "status": "TERMINATED", "windows": 1, **metrics, **judge(metrics, config)}


def order(*rows) -> tuple[str, str]:
    """The winner of the sweep, and the one that the validation loss would choose."""
    trials = pd.DataFrame(rows)
    return ranked(trials)["trial"].iloc[0], trials.loc[trials["val/loss"].idxmin(), "trial"]


def test_collapsed_codebook_wins_by_loss_and_not_the_sweep(setting, data, honest):
    trainer, metrics = honest
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    logits = trainer.model.quantizer.logits
    with torch.no_grad():  # every frame takes the first code of its group
        logits.weight.zero_()
        logits.bias.zero_()
        logits.bias[:: setting.model.quantizer.num_codes] = 100.0
    collapsed = validate(trainer.model, setting, data, 0, 1, CPU)
    trainer.model.load_state_dict(weights)
    assert collapsed["codebook/hard_perplexity"] == pytest.approx(2.0)
    assert collapsed["val/contrastive"] < 0.01
    for objective in ("val/top1_tie", "probe/macro_ap"):
        config = setting.override({"search.objective": objective})
        assert judge(collapsed, config)["objective"] == 0
        assert order(row("collapsed", collapsed, config), row("honest", metrics, config)) == ("honest", "collapsed")
    # Without the gate the label-free score gives a collapsed codebook chance and no more.
    open_gate = setting.override({"search.min_perplexity_fraction": 0.0})
    assert judge(collapsed, open_gate)["objective"] == pytest.approx(CHANCE, rel=0.01)
    assert order(row("honest", metrics, open_gate), row("collapsed", collapsed, open_gate))[0] == "honest"


def test_trivially_easy_task_wins_by_loss_and_not_the_sweep(setting, data, honest, tmp_path):
    easy = setting.override({"loss.num_negatives": 1, "mask.ratio": 0.05, "loss.temperature": 0.5})
    _, metrics = trained(easy, data, tmp_path)
    assert judge(metrics, easy)["healthy"], "no gate stops it: the score itself must"
    assert metrics["val/loss"] < 0.5 * honest[1]["val/loss"]
    assert order(row("honest", honest[1], setting), row("easy", metrics, easy)) == ("honest", "easy")
