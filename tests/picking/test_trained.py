"""Pickers come from a checkpoint or from what jobs.export wrote, with what dev said about them."""

import json
import logging
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.config import HeadConfig
from model.detector import EventDetector
from raysys.picking.export import export
from raysys.picking.picks import Calibration
from raysys.picking.seisbench_model import Picker
from raysys.picking.trained import calibration_of, load_picker
from tests.picking.conftest import MODEL

METRICS = {
    "all": {
        "test_P_hit_0.1s": {"value": 0.7654, "low": 0.71, "high": 0.82},
        "test_P_mae_s": {"value": None, "low": None, "high": None},
    },
    "mesetas": {"test_S_f1_0.5s": {"value": 0.5, "low": None, "high": None}},
}
MADE = Calibration(p_threshold=0.41, s_threshold=0.37, p_odds=(1.3, 0.2), s_odds=(1.2, 0.4), p_spread=0.8, s_spread=0.9)


@pytest.fixture
def evaluation(checkpoint, tmp_path):
    """Returns a function that writes an evaluation, of our checkpoint as it says otherwise."""

    def write(**mine):
        usual = {
            "checkpoint": str(checkpoint),
            "source": "run",
            "thresholds": {"P": 0.41, "S": 0.37, "det": 0.2},
            "odds": {"P": [1.3, 0.2], "S": [1.2, 0.4]},
            "spread": {"P": 0.8, "S": 0.9},
            "metrics": METRICS,
            "trained_on": ["mesetas", "iceland_vt"],
        }
        other = usual | {"checkpoint": "", "source": "phasenet:instance", "odds": {"P": [9, 9], "S": [9, 9]}}
        models = {"other": other, "tiny": usual | mine}
        (tmp_path / "evaluation.json").write_text(json.dumps({"models": models}))
        return str(tmp_path)

    return write


def test_an_evaluation_says_thresholds_odds_and_spread(evaluation, checkpoint):
    calibration, told = calibration_of(evaluation(), str(checkpoint))
    assert calibration == MADE
    assert told["trained_on"] == ["mesetas", "iceland_vt"]


def test_what_dev_could_not_say_is_left_as_it_is(evaluation, checkpoint):
    folder = evaluation(
        thresholds={"P": None, "S": 0.37}, odds={"P": [None, None], "S": [1.2, 0.4]}, spread={"P": None, "S": 0.9}
    )
    assert calibration_of(folder, str(checkpoint))[0] == Calibration(s_threshold=0.37, s_odds=(1.2, 0.4), s_spread=0.9)
    folder = evaluation()
    content = json.loads(Path(folder, "evaluation.json").read_text())
    del content["models"]["tiny"]["spread"], content["models"]["tiny"]["odds"]
    Path(folder, "evaluation.json").write_text(json.dumps(content))
    assert calibration_of(folder, str(checkpoint))[0].p_spread is None, "an older evaluation"


def test_an_evaluation_of_others_is_refused_with_their_names(evaluation):
    with pytest.raises(ValueError, match=r"does not evaluate /nowhere: it has other \(phasenet:instance\), tiny \("):
        calibration_of(evaluation(), "/nowhere")


def test_an_exported_picker_has_its_calibration_and_its_scores(evaluation, checkpoint, tiny, tmp_path, caplog):
    folder = export(str(checkpoint), tmp_path / "out", evaluation())
    assert {file.name for file in folder.iterdir()} == {
        "README.md", "config.json", "model.safetensors", "picker.json", "picker.pt"
    }  # fmt: skip
    picker = load_picker(str(folder))
    assert (picker.name, picker.calibration) == ("tiny", MADE)
    assert not picker.network.training
    x = torch.randn(2, 3, 256)
    with torch.no_grad():
        assert torch.equal(picker.network(x), tiny(x))
        assert torch.equal(Picker.load(folder / "picker").eval()(x), tiny(x))
    assert Picker.load(folder / "picker").calibration == MADE
    stored = json.loads((folder / "picker.json").read_text())
    assert (stored["seisbench_requirement"], stored["version"]) == ("0.12.0", "1")
    assert stored["default_args"] == {"P_threshold": 0.41, "S_threshold": 0.37}
    card = (folder / "README.md").read_text()
    assert not re.search(r"[{}]|None|nan|TODO|XXX", card), card
    for text in ("# tiny", "mesetas, iceland_vt", "0.765 (0.71, 0.82)", "0.500", "P from 0.410 and S from 0.370 on, as the network gives them, chosen on dev",
                 "are calibrated on dev", "68 % intervals", "random weights"):  # fmt: skip
        assert text in card, text
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1
    assert [line.split("|")[1].strip() for line in rows[2:]] == ["mesetas", "all"]
    assert "thresholds are" not in caplog.text


def test_without_an_evaluation_the_card_says_so(checkpoint, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        folder = export(str(checkpoint), tmp_path)
    card = (folder / "README.md").read_text()
    assert not re.search(r"[{}]|None|nan", card), card
    assert "Not measured." in card
    assert "which nobody has chosen: evaluate it" in card
    assert "Uncertainties in time were not measured." in card
    assert "give --evaluation" in caplog.text
    assert load_picker(str(folder)).calibration == Calibration()


def test_a_half_precision_picker_is_small_and_gives_nearly_the_same(evaluation, checkpoint, tiny, tmp_path):
    folder = export(str(checkpoint), tmp_path / "half", evaluation(), half=True)
    assert {file.name for file in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}
    picker = load_picker(str(folder))
    assert {p.dtype for p in picker.network.parameters()} == {torch.float32}
    x = torch.randn(4, 3, 256)
    with torch.no_grad():
        assert 0 < (picker.network(x) - tiny(x)).abs().max() < 0.05
    assert picker.calibration == MADE


def test_a_checkpoint_picks_with_a_warning_that_nobody_has_chosen_thresholds(checkpoint, caplog):
    with caplog.at_level(logging.WARNING):
        picker = load_picker(str(checkpoint))
    assert picker.name == "tiny"
    assert picker.calibration == Calibration()
    assert "thresholds are 0.3" in caplog.text


def test_what_does_not_pick_is_refused(checkpoint, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError)):
        load_picker(str(tmp_path / "nowhere"))
    content = json.loads((checkpoint / "config.json").read_text())
    detector = tmp_path / "detector"
    detector.mkdir()
    (detector / "config.json").write_text(json.dumps(content | {"task": "detect"}))
    (detector / "state.json").write_text("{}")
    save_file(EventDetector(MODEL, HeadConfig()).state_dict(), detector / "model.safetensors")
    with pytest.raises(ValueError, match="was trained to detect and not to pick"):
        load_picker(str(detector))
    with pytest.raises(ValueError, match="holds a EventDetector, and only our own pickers"):
        export(str(detector), tmp_path / "out")
    assert not (tmp_path / "out").exists()
