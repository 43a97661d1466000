"""What is told of data sets before they are used."""

import dataclasses

import numpy as np
import pytest

from raysys.config import DataConfig
from raysys.data.catalog import resolve
from raysys.data.overview import find, index_only, overview
from tests.data.conftest import write_set


@pytest.fixture
def config(tmp_path) -> DataConfig:
    """Two data sets that share an event; the second has other pick columns, a dead trace and another rate."""
    noise = np.random.default_rng(0).standard_normal((4, 3, 1000)).astype(np.float32)
    columns = {"split": ["train", "train", "dev", "test"], "source_id": ["a", "b", "c", "d"]}
    picks = {"trace_P_arrival_sample": [100, 200, 300, "nan"], "trace_Pg_arrival_sample": ["nan", 150, "nan", "nan"]}
    write_set(tmp_path / "stead", list(noise), columns=columns | picks)
    noise[1] = 0
    write_set(tmp_path / "mine", list(noise[:, :, :600]), rate_hz=50.0, columns=columns | {"source_id": list("cxyz")})
    return DataConfig(root=str(tmp_path), datasets=("all",), cache=str(tmp_path / "cache"))


def test_everything_that_is_known_of_a_data_set_is_told(config):
    text = overview(config)
    mine, stead, leaks = text.split("\n\n")
    assert stead.splitlines() == [
        "STEAD: 4 traces",
        "  splits: train 2, dev 1, test 1",
        "  sampling rates: 100 Hz (4)",
        "  lengths: 10.0 s",
        "  P picks: 3, from trace_P_arrival_sample (2), trace_Pg_arrival_sample (1)",
        "  S picks: none",
        "  left out: none",
        "  flaws of the others: unknown, nobody has looked (--data.scan does)",
    ]
    assert "  sampling rates: 50 Hz (4)\n  lengths: 12.0 s\n  P picks: none" in mine
    assert leaks.splitlines()[1:] == [
        "  mine trains on 1 events (1 traces) of the dev or test split of STEAD",
        "  --data.exclude-leaks leaves these training traces out",
    ]


def test_flaws_are_told_once_somebody_has_looked(config):
    scanned = DataConfig(root=config.root, datasets=("mine",), cache=config.cache, scan=True, drop=("dead",))
    text = overview(scanned)
    assert "mine: 3 traces\n  splits: train 1, dev 1, test 1" in text
    assert "  left out: dead 1\n  flaws of the others: none" in text
    assert text.endswith("splits:\n  none")
    unseen = dataclasses.replace(scanned, cache=f"{scanned.cache}/other")
    assert len(index_only(unseen, {"mine": ""})) == 4, "it looks at no waveform"


def test_what_is_missing_is_named_with_what_is_there(config):
    folders, wrong = find(config)
    assert set(folders) == {"mine", "STEAD"}
    assert not wrong
    folders, wrong = find(DataConfig(root=config.root, datasets=("STEAD", "PNW", "ETHZ", "nime")))
    assert set(folders) == {"STEAD"}
    assert "unknown data set 'nime': did you mean 'mine'" in wrong[0]
    assert wrong[1] == "not there: PNW, ETHZ (about 85 GB; jobs.prepare --download fetches them)"
    assert wrong[2] == "there: mine, stead; --data.datasets all takes these"
    _, wrong = find(DataConfig(root=f"{config.root}/nothing", datasets=("PNW",)))
    assert wrong[1] == "there: no data set"


def test_a_root_that_is_a_data_set_itself_is_refused(config):
    for names in (("all",), ("STEAD",), ("all8",)):
        with pytest.raises(ValueError, match=r"data\.root=.*/stead is itself a data set: give its parent folder"):
            resolve(names, f"{config.root}/stead")


def test_what_looks_like_a_pick_and_is_not_understood_is_named(tmp_path):
    columns = {"split": ["train"] * 2, "trace_P_arrival_sample": [100, -12345], "my_p_pick": [100, 200]}
    write_set(tmp_path / "mine", list(np.ones((2, 3, 1000), np.float32)), columns=columns)
    text = overview(DataConfig(root=str(tmp_path), datasets=("all",), cache=str(tmp_path / "cache")))
    assert "  P picks: 1, from trace_P_arrival_sample (1)\n  S picks: none\n  left out: none\n  not used: " in text
    for reason in ("onset that is impossible (outside the trace) 1", "my_p_pick"):
        assert reason in text
