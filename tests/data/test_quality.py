"""Flaws of seismograms: found, counted by data set and reason, dropped by policy."""

import numpy as np
import pytest

from raysys.config import DataConfig
from raysys.data.corpus import load_corpus
from raysys.data.quality import FLAGS, quality_report, quality_table, trace_flags
from tests.data.conftest import write_set


def noise(samples=3000, amplitude=1.0, seed=0):
    return (amplitude * np.random.default_rng(seed).standard_normal((3, samples))).astype(np.float32)


def changed(change) -> np.ndarray:
    waveform = noise()
    change(waveform)
    return waveform


FLAWED = {
    "not finite": changed(lambda w: w.__setitem__((1, 5), np.nan)),
    "dead": np.full((3, 3000), 7.0, np.float32),
    "dead component": changed(lambda w: w.__setitem__(2, 0.0)),
    "clipped": changed(lambda w: np.clip(w, -0.5, 0.5, out=w)),
    "gap": changed(lambda w: w.__setitem__((slice(None), slice(100, 250)), 0.25)),
    "short": noise(400),
}


@pytest.mark.parametrize("reason", FLAGS)
def test_each_flaw_is_found_and_no_other(reason):
    assert trace_flags(FLAWED[reason]) == FLAGS[reason]


@pytest.mark.parametrize("amplitude", [1e-9, 1.0, 1e9])
def test_a_sound_trace_has_no_flag_at_any_amplitude(amplitude):
    assert trace_flags(noise(amplitude=amplitude)) == 0
    assert trace_flags(np.round(noise(amplitude=50)) + 3000) == 0, "whole counts repeat now and then"


def test_a_scan_counts_every_flaw_and_the_policy_drops_the_named_ones(tmp_path, caplog):
    caplog.set_level("INFO")
    waveforms = [*FLAWED.values(), noise(seed=1), noise(seed=2)]
    write_set(tmp_path / "data/set", waveforms, columns={"split": ["train"] * 8})
    options = {"root": str(tmp_path / "data"), "datasets": ("set",), "cache": str(tmp_path / "cache")}

    blind = load_corpus(DataConfig(**options))
    assert len(blind) == 8
    assert "?" not in quality_table(quality_report(blind)), "no column is shown of what nobody has looked for"

    seen = load_corpus(DataConfig(**options, scan=True))
    [row] = quality_report(seen)
    assert row["left_out"] == {"dead": 1, "short": 1}
    assert row["kept"] == {"not finite": 1, "dead component": 1, "clipped": 1, "gap": 1}
    assert row["traces"] == len(seen) == 6
    assert "looking at 8 traces, once" in caplog.text
    caplog.clear()
    strict = load_corpus(DataConfig(**options, scan=True, drop=tuple(FLAGS)))
    assert len(strict) == 2
    assert "looking at" not in caplog.text, "what a scan found is cached"
    header, line = quality_table(quality_report(strict)).splitlines()
    assert header.split("  ")[0] == "data set"
    assert line.split() == ["set", "2", *["-1"] * 6]


def test_an_unknown_flaw_gets_a_suggestion(tmp_path):
    write_set(tmp_path / "data/set", [noise(), noise()])
    config = DataConfig(root=str(tmp_path / "data"), datasets=("set",), cache=str(tmp_path), drop=("cliped",))
    with pytest.raises(ValueError, match=r"data\.drop: unknown reason 'cliped': did you mean 'clipped'"):
        load_corpus(config)
