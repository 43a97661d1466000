"""Published target files: they come back as they were made, at other rates, with names that repeat, and not for other data."""

import logging

import pytest

from raysys.config import DataConfig
from raysys.data.corpus import load_corpus
from raysys.evaluate.published import read_targets
from raysys.evaluate.tasks import make_targets
from tests.evaluate.made import made_table


def write(folder, targets, **changed):
    folder.mkdir(parents=True)
    for task in ("task1", "task23"):
        rows = getattr(targets, task).drop(columns=["row", "trace_chunk", "event"]).assign(**changed)
        for column in {"start_sample", "end_sample", "phase_onset"} & set(rows):
            rows[column] = rows[column] * rows["sampling_rate"] / 100
        rows.to_csv(folder / f"{task}.csv", index=False)


@pytest.mark.parametrize("rate", [100, 50, 200])
def test_files_come_back_as_they_were_made(miniatures, tmp_path, rate):
    table = load_corpus(DataConfig(root=str(miniatures), datasets=("STEAD",), cache=str(tmp_path)))
    made = make_targets(table)
    write(tmp_path / "targets" / "Stead", made, sampling_rate=rate)
    found = read_targets(str(tmp_path / "targets"), table)
    for task in ("task1", "task23"):
        one, other = getattr(made, task), getattr(found, task)
        for column in ("row", "trace_name", "event", "trace_split"):
            assert one[column].tolist() == other[column].tolist()
        for column in {"start_sample", "end_sample", "phase_onset"} & set(one):
            assert other[column].to_numpy() == pytest.approx(one[column].to_numpy(), abs=1)
        assert (other["sampling_rate"] == 100).all()


def test_the_folder_itself_serves_where_one_data_set_is_evaluated(tmp_path):
    table = made_table({"p_s": 20.0})
    write(tmp_path / "mine", make_targets(table))
    assert read_targets(str(tmp_path / "mine"), table) is None
    assert len(read_targets(str(tmp_path / "mine"), table, alone=True).task1) == 1


def test_of_traces_with_one_name_the_split_and_then_the_number_decides(tmp_path):
    rows = [
        {"trace_name": "same", "p_s": 20.0, "split": split, "chunk": str(k)}
        for k, split in enumerate(["dev", "test", "test"])
    ]
    table = made_table(*rows)
    write(tmp_path / "made", make_targets(table))
    assert read_targets(str(tmp_path), table).task1["row"].tolist() == [0, 1, 2]


def test_rows_without_a_trace_are_counted_and_most_of_them_are_an_error(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    table = made_table(*({"p_s": 20.0} for _ in range(5)))
    write(tmp_path / "made", make_targets(table))
    assert len(read_targets(str(tmp_path), table.slice(0, 4).combine_chunks()).task1) == 4
    assert "5 rows, 1 match no trace" in caplog.text
    with pytest.raises(ValueError, match="are these the targets of this data set"):
        read_targets(str(tmp_path), table.slice(0, 2).combine_chunks())
    with pytest.raises(FileNotFoundError, match="no such folder"):
        read_targets(str(tmp_path / "nowhere"), table)


def test_a_file_that_lacks_a_column_is_refused(tmp_path):
    table = made_table({"p_s": 20.0})
    write(tmp_path / "made", make_targets(table))
    file = tmp_path / "made" / "task1.csv"
    file.write_text(file.read_text().replace("trace_type", "kind"))
    with pytest.raises(ValueError, match=r"task1\.csv lacks the column trace_type"):
        read_targets(str(tmp_path), table)
