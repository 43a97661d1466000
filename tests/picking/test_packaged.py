"""The picker that comes with the package: small, described, and right on records that come with ObsPy."""

import tomllib
from pathlib import Path

import obspy
import pytest

from raysys.picking.seisbench_model import Picker
from raysys.picking.trained import load_picker

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "raysys" / "weights" / "picker"


def test_it_is_small_and_its_card_says_what_it_learnt_and_scores():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 1e6
    card = (FOLDER / "README.md").read_text()
    for text in ("licence", "P within 0.1 s", "PhaseNet", "mesetas", "## Limits", "Not pretrained"):
        assert text in card
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert package_data["raysys"] == ["weights/picker/*"]


def test_it_knows_its_calibration():
    calibration = load_picker().calibration
    assert 0.05 < calibration.p_threshold < 1
    assert 0.05 < calibration.s_threshold < 1
    assert calibration.p_odds != (1.0, 0.0)
    assert 0 < calibration.p_spread < 2


def test_it_picks_the_earthquake_of_obspys_example():
    picks = Picker.open().table(obspy.read())
    assert picks["phase"].tolist() == ["P", "S"]
    begin = obspy.UTCDateTime("2009-08-24T00:20:00").ns
    p, s = ((picks["peak_time"].astype("int64") - begin) / 1e9).tolist()
    assert p == pytest.approx(7.7, abs=0.15)  # as one sees them
    assert s == pytest.approx(8.75, abs=0.2)
    assert (picks["probability"] > 0.5).all()
    assert (picks["time_uncertainty_s"] < 0.2).all()


def test_it_finds_the_onset_that_a_test_of_obspys_own_picker_asserts():
    """At RJOB, recorded at 200 Hz."""
    from raysys.miniature.obspy_examples import RECORDINGS, _read

    stream = _read(RECORDINGS[1])
    picks = Picker.open().table(stream)
    onset = stream[0].stats.starttime.ns + RECORDINGS[1].p_sample / 200 * 1e9
    p = picks[picks["phase"] == "P"]["peak_time"].astype("int64").to_numpy()
    assert len(p)
    assert abs(p - onset).min() < 0.2e9
