"""Rows of the metadata that name one trace: a record of two earthquakes has a row for each."""

import numpy as np
import pytest

from raysys.config import DataConfig
from raysys.data.corpus import fingerprint, load_corpus
from raysys.data.index import dropped_rows, load_index
from tests.data.conftest import write_set


@pytest.fixture
def indexed(tmp_path):
    """Indexes a set of three traces from rows of (trace, split, event, P, S)."""

    def of(*rows):
        folder = write_set(tmp_path / "data/set", [np.ones((3, 900), np.float32)] * 3)
        header = "trace_name,trace_sampling_rate_hz,split,source_id,trace_P_arrival_sample,trace_S_arrival_sample\n"
        lines = [f'"bucket0${trace},:3,:900",100,{",".join(map(str, rest))}\n' for trace, *rest in rows]
        (folder / "metadata.csv").write_text(header + "".join(lines))
        return load_index(str(folder), "set", str(tmp_path / "cache"))

    return of


ONSETS = ("p_s", "p_more_s", "s_s", "s_more_s", "event", "more_events", "split")


def test_a_record_of_several_earthquakes_has_the_onsets_and_events_of_all(indexed):
    table = indexed(
        (0, "train", "a", 500, 700),
        (1, "dev", "x", "", 300),
        (0, "", "b", 100, 200),
        (1, "dev", "y", 200, ""),
        (0, "train", "a", 500, 800),
        (2, "test", "z", "", ""),
    )
    rows = [tuple(row[name] for name in ONSETS) for row in table.to_pylist()]
    assert rows[:2] == [
        (1.0, [5.0], 2.0, [7.0, 8.0], "a", ["b"], "train"),
        (2.0, [], 3.0, [], "x", ["y"], "dev"),
    ]
    assert np.isnan(rows[2][0])
    assert dropped_rows(table) == {"duplicate identity": 3}
    assert table["p_phase"].to_pylist() == ["P", "P", ""]


def test_rows_that_contradict_each_other_are_left_out_and_counted(indexed):
    table = indexed((0, "train", "a", 500, 700), (0, "test", "b", 100, 200), (1, "dev", "c", 1, 2))
    assert table["event"].to_pylist() == ["c"]
    assert dropped_rows(table) == {"rows of one trace that contradict each other": 2}


def test_a_digest_is_of_all_onsets(indexed, tmp_path):
    config = DataConfig(root=str(tmp_path / "data"), datasets=("set",), cache=str(tmp_path / "cache"))
    digests = set()
    for later in (700, 701):
        indexed((0, "train", "a", 500, ""), (0, "train", "b", later, ""), (1, "dev", "c", 1, 2))
        digests.add(fingerprint(load_corpus(config)))
    assert len(digests) == 2
