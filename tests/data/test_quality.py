"""Flaws of seismograms: found, counted by data set and reason, dropped by policy."""

import numpy as np
import pytest

from raysys.config import DataConfig
from raysys.data.corpus import load_corpus
from raysys.data.quality import FLAGS, mask, quality_report, quality_row, quality_table, reasons, trace_flags
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


def cut(level: float, component: int, low: bool, high: bool) -> np.ndarray:
    """Noise of which one component is clipped on one side or both."""
    bounds = -level if low else -np.inf, level if high else np.inf
    return changed(lambda w: np.clip(w[component], *bounds, out=w[component]))


def still(samples: int, components=slice(None)) -> np.ndarray:
    """Noise of which some components stand still for so many samples."""
    return changed(lambda w: w.__setitem__((components, slice(100, 100 + samples)), 0.25))


def at_rail(samples: int) -> np.ndarray:
    """Noise with so many samples that repeat the largest value, of 3000."""
    return changed(lambda w: w.__setitem__((2, slice(700, 701 + samples)), 9.0))


@pytest.mark.parametrize(
    ("waveform", "rate_hz", "found"),
    [
        pytest.param(cut(0.5, 1, True, False), 100, ["clipped"], id="one component clipped below"),
        pytest.param(cut(0.5, 2, False, True), 100, ["clipped"], id="one component clipped above"),
        pytest.param(at_rail(14), 100, [], id="14 of 2999 steps at the largest value"),
        pytest.param(at_rail(16), 100, ["clipped"], id="16 of 2999 steps at the largest value"),
        pytest.param(still(101), 100, ["gap"], id="a second without motion"),
        pytest.param(still(100), 100, [], id="less than a second"),
        pytest.param(still(51), 50, ["gap"], id="a second at 50 Hz"),
        pytest.param(still(50), 50, [], id="less than a second at 50 Hz"),
        pytest.param(still(150, 1), 100, [], id="one component still, the others not"),
        pytest.param(still(150, slice(2)), 100, [], id="two components still, the third not"),
        pytest.param(
            changed(lambda w: w.__setitem__(([[0], [2]], [[*range(100, 250)]]), 0.25) or w.__setitem__(1, 3.0)),
            100,
            ["dead component", "gap"],
            id="both live components still, the third dead",
        ),
        pytest.param(noise(499), 100, ["short"], id="short of five seconds"),
        pytest.param(noise(500), 100, [], id="five seconds"),
        pytest.param(noise(250), 50, [], id="five seconds at 50 Hz"),
        pytest.param(noise(999), 200, ["short"], id="short of five seconds at 200 Hz"),
        pytest.param(np.full((3, 100), 2.0), 100, ["dead", "short"], id="dead and short"),
        pytest.param(np.full((3, 900), np.nan), 100, ["dead", "not finite"], id="nothing finite"),
        pytest.param(changed(lambda w: w.__setitem__((2, 7), -np.inf)), 100, ["not finite"], id="infinite"),
        pytest.param(changed(lambda w: w.__setitem__(slice(1, 3), 2.0)), 100, ["dead component"], id="one is live"),
        pytest.param(noise()[:1], 100, [], id="one component, and it is sound"),
    ],
)
def test_a_flaw_begins_where_its_definition_says(waveform, rate_hz, found):
    assert reasons(np.array([trace_flags(waveform, rate_hz)])) == dict.fromkeys(found, 1)


def test_flags_are_bits_that_are_counted_and_chosen_one_by_one():
    assert sorted(FLAGS.values()) == [1, 2, 4, 8, 16, 32]
    flags = np.array([0, 2, 2 + 32, 8 + 2, 8])
    assert reasons(flags) == {"dead": 3, "clipped": 2, "short": 1}
    assert mask(()) == 0
    assert mask(("clipped", "dead", "clipped")) == 10


def test_the_report_tells_left_out_kept_and_unknown_apart():
    rows = [
        quality_row("one", 7, {"dead": 2, "duplicate identity": 1}, {"gap": 3}, True),
        quality_row("second", 12, {"duplicate identity": 4, "dead": 5}, {"dead": 6}, False),
    ]
    assert quality_table(rows) == "\n".join(
        [
            "data set  traces  dead       duplicate identity  gap",
            "one       7       -2         -1                  3 kept",
            "second    12      -5 6 kept  -4                  ?",
        ]
    )


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
