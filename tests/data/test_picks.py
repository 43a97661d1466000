"""Onsets of all columns: the first of each wave, the later ones, and those that cannot be."""

import numpy as np
import pytest

from raysys.data.metadata import read_metadata
from raysys.data.picks import PHASES, is_pick, not_understood, read_onsets
from raysys.location import Location


def onsets(folder, columns: dict[str, list], samples=1000, rate_hz=100.0) -> dict[str, list]:
    """The onsets of traces of one length, by phase of the column."""
    n = len(next(iter(columns.values())))
    lines = [",".join(["trace_name", *(f"trace_{phase}_arrival_sample" for phase in columns)])]
    lines += [",".join([f"t{i}", *(str(cells[i]) for cells in columns.values())]) for i in range(n)]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    metadata = read_metadata(
        Location(folder / "metadata.csv"), lambda column: column == "trace_name" or is_pick(column)
    )
    found = read_onsets(metadata, np.full(n, samples), np.full(n, rate_hz))
    return {
        name: values.tolist() if isinstance(values, np.ndarray) else values.to_pylist()
        for name, values in found.items()
    }


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_name_is_a_p_or_an_s(tmp_path, phase):
    wave, other = ("p", "s") if PHASES[phase] == "P" else ("s", "p")
    found = onsets(tmp_path, {phase: ["", 100]})
    np.testing.assert_array_equal(found[f"{wave}_s"], [np.nan, 1.0])
    assert found[f"{wave}_phase"] == ["", phase]
    assert np.isnan(found[f"{other}_s"]).all()


def test_the_phases_are_those_of_the_benchmark_and_other_first_arrivals():
    of_p = [
        "p",
        "pP",
        "P",
        "P1",
        "Pg",
        "Pn",
        "PmP",
        "pwP",
        "pwPm",
        "Pb",
        "Pdif",
        "Pdiff",
        "PKP",
        "PKPab",
        "PKPbc",
        "PKPdf",
        "PKIKP",
        "PKiKP",
    ]
    assert [phase for phase, wave in PHASES.items() if wave == "P"] == of_p
    assert [phase for phase, wave in PHASES.items() if wave == "S"] == [
        "s",
        "S",
        "S1",
        "Sg",
        "SmS",
        "Sn",
        "Sb",
        "Sdif",
        "Sdiff",
        "SKS",
    ]


@pytest.mark.parametrize(
    "names", [("P_1", "P_2"), ("P1", "P2"), ("P_01", "P_02"), ("Pg", "Pn"), ("P-2", "P_10"), ("P", "P_2")]
)
def test_several_onsets_are_the_first_and_the_later_ones(tmp_path, names):
    found = onsets(tmp_path, {names[0]: [500, 500, ""], names[1]: [800, 300, 700], "S_1": [600, "", 650]})
    np.testing.assert_array_equal(found["p_s"], [5, 3, 7])
    assert found["p_more_s"] == [[8], [5], []]
    np.testing.assert_array_equal(found["s_s"], [6, np.nan, 6.5])
    assert found["s_more_s"] == [[], [], []]


def test_an_onset_under_two_names_is_one(tmp_path):
    found = onsets(tmp_path, {"Pn": [500], "P": [500], "Pg": [700]})
    assert (found["p_s"], found["p_more_s"], found["p_phase"]) == ([5], [[7]], ["P"])


def test_phases_that_are_neither_are_onsets_nevertheless(tmp_path):
    found = onsets(tmp_path, {"P": [100, ""], "PcP": [400, 300], "X": [200, ""]})
    assert (found["p_more_s"], found["other_s"]) == ([[], []], [[2, 4], [3]])
    assert np.isnan(found["s_s"]).all()


@pytest.mark.parametrize("none", [-12345, -1, -999, 1000, 99999, -0.5, "inf", "-inf"])
def test_an_onset_outside_its_trace_is_none_and_counted(tmp_path, none):
    found = onsets(
        tmp_path, {"P": [none, none, 999.5], "Pg": [800, none, none], "S": [900, "", ""], "X": [none, "", ""]}
    )
    np.testing.assert_array_equal(found["p_s"], [8, np.nan, 9.995])
    assert found["p_phase"] == ["Pg", "", "P"]
    assert (found["p_more_s"], found["other_s"]) == ([[], [], []], [[], [], []])
    assert found["outside"] == [2, 2, 1]


def test_zeros_are_none_where_a_column_has_several(tmp_path):
    found = onsets(tmp_path, {"P": [0, 0, 20], "Pg": [800, "", ""], "S": [0, 30, 40]})
    np.testing.assert_array_equal(found["p_s"], [8, np.nan, 0.2])
    np.testing.assert_array_equal(found["s_s"], [0, 0.3, 0.4])
    assert found["outside"] == [1, 1, 0]


@pytest.mark.parametrize(
    "column",
    [
        "my_p_pick",
        "trace_X_arrival_sample",
        "P_sample",
        "trace_PcP_arrival_sample",
        "p_onset",
        "trace_p_header_sample",
        "Pick P",
        "trace_s_time",
        "arrival_time_s",
        "trace_P_arrival_samples",
        "TRACE_P_ARRIVAL_SAMPLE",
        "s_idx",
        "phase_pick",
    ],
)
def test_a_column_that_looks_like_a_pick_is_not_understood(column):
    assert not_understood(["trace_name", "split", column, column]) == [column]


@pytest.mark.parametrize(
    "column",
    [
        "trace_P_arrival_sample",
        "trace_P_2_arrival_sample",
        "trace_p_status",
        "trace_p_weight",
        "path_p_travel_s",
        "trace_n_picks",
        "trace_coda_end_sample",
        "source_origin_time",
        "trace_start_time",
        "trace_npts",
        "path_travel_time_P_s",
        "trace_snr_db",
        "trace_P_polarity",
        "trace_sampling_rate_hz",
        "station_code",
        "path_residual_S_s",
        "trace_dt_s",
        "trace_pick_quality",
    ],
)
def test_other_columns_of_published_sets_do_not_look_like_picks(column):
    assert not_understood(["trace_name", column]) == []


def test_what_is_said_of_a_pick_that_is_read_is_no_pick():
    header = ["trace_P_arrival_sample", "trace_P_onset", "trace_P_arrival_time", "trace_S_arrival_time"]
    assert not_understood(header) == ["trace_S_arrival_time"]
