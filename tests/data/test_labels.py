"""Labels of traces: whose they are, and which part of them a run sees."""

import numpy as np
import pyarrow as pa
import pytest

from raysys.config import RunConfig
from raysys.data.labels import TraceLabels, draw_labelled
from tests.data.test_fixed_windows import counting_set

NAN = float("nan")
PICK = RunConfig().override({"task": "pick", "search.objective": "dev/score"})
CLASSIFY = PICK.override({"task": "classify"})


def table_of(folder, events: list[str], name: str = "a") -> pa.Table:
    """Index of traces with a P each, of these events."""
    n = len(events)
    table = counting_set(folder, name, [50] * n, [NAN] * n, ["earthquake"] * n, [300] * n)
    return table.set_column(table.schema.get_field_index("event"), "event", pa.array(events, pa.string()))


def drawn(table: pa.Table, fraction: float, draw: int) -> np.ndarray:
    dataset = table["dataset"].to_numpy(zero_copy_only=False)
    return draw_labelled(dataset, TraceLabels.from_table(table, PICK).unit, fraction, draw)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> pa.Table:
    """Forty events of five traces and one of a hundred, sixty traces without an event, and a small set."""
    folder = tmp_path_factory.mktemp("labels")
    events = [f"e{k // 5}" for k in range(200)] + ["swarm"] * 100 + [""] * 60
    return pa.concat_tables([table_of(folder, events), table_of(folder, ["x", "y", "z"], "small")])


def test_smaller_parts_lie_inside_larger_ones_and_hold_whole_events_of_every_set(many):
    events, small = np.array(many["event"].to_pylist()), np.array(many["dataset"].to_pylist()) == "small"
    before = np.zeros(len(many), bool)
    for fraction in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0):
        taken = drawn(many, fraction, 0)
        assert (taken >= before).all()
        assert taken[small].any()
        assert taken[~small].any()
        for event in set(events) - {""}:
            assert len(set(taken[events == event])) == 1
        assert abs(taken[~small].sum() - fraction * 360) <= 100  # the swarm, which comes whole
        before = taken
    assert taken.all()


def test_traces_without_an_event_are_drawn_one_by_one(many):
    alone = many.slice(300, 60)
    assert drawn(alone, 0.25, 0).sum() == 15


def test_another_draw_takes_others_and_the_order_of_rows_does_not_matter(many):
    one, other = drawn(many, 0.2, 0), drawn(many, 0.2, 1)
    assert (one != other).sum() > 30
    order = np.random.default_rng(0).permutation(len(many))
    np.testing.assert_array_equal(drawn(many.take(pa.array(order)), 0.2, 0), one[order])


def test_events_that_share_a_trace_stay_together(tmp_path):
    """Ten traces of ten events, each trace with its neighbour's event beside its own: all of them or none."""
    table = table_of(tmp_path, [f"e{k}" for k in range(10)])
    more = pa.array([[f"e{k + 1}"] for k in range(9)] + [[]], pa.list_(pa.string()))
    table = table.set_column(table.schema.get_field_index("more_events"), "more_events", more)
    assert drawn(table, 0.1, 0).sum() == 10


def test_a_trace_is_an_earthquake_or_noise_unless_nobody_knows(tmp_path):
    table = counting_set(
        tmp_path, "a", [50, NAN, NAN], [NAN, NAN, NAN], ["earthquake", "noise", "earthquake"], [300] * 3
    )
    assert TraceLabels.from_table(table, PICK).known("pick").tolist() == [True, True, False]
    labels = TraceLabels.from_table(table, CLASSIFY)
    assert labels.group.tolist() == [0, 1, -1]
    assert labels.known("classify").tolist() == [True, True, False]
    turned = CLASSIFY.override({"head.classes": ["noise", "earthquake"]})
    assert TraceLabels.from_table(table, turned).group.tolist() == [1, 0, -1]
    with pytest.raises(ValueError, match=r"head.classes=\('fore', 'after'\)"):
        TraceLabels.from_table(table, CLASSIFY.override({"head.classes": ["fore", "after"]}))


def write_classes(folder, text: str) -> RunConfig:
    file = folder / "classes.csv"
    file.write_text(text)
    return CLASSIFY.override({"finetune.classes_file": str(file), "head.classes": ["fore", "after"]})


def test_a_file_gives_classes_by_name_and_data_set(tmp_path):
    table = pa.concat_tables([table_of(tmp_path, ["x", "y"]), table_of(tmp_path, ["z"], "b")])
    names = table["trace_name"].to_pylist()
    assert names[0] == names[2]
    config = write_classes(tmp_path, f'dataset,trace_name,class\na,"{names[0]}",after\nb,"{names[2]}",fore\n')
    assert TraceLabels.from_table(table, config).group.tolist() == [1, -1, 0]
    config = write_classes(tmp_path, f'trace_name,class\n"{names[0]}",after\n')
    assert TraceLabels.from_table(table, config).group.tolist() == [1, -1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trace,class\n", "lacks the column trace_name"),
        ("trace_name,class\na,main\n", r"'main' is none of head.classes=.*--head.classes fore after main"),
        ("trace_name,class\na,fore\na,after\n", "trace a has two rows"),
    ],
)
def test_a_file_of_classes_that_cannot_be_right_is_refused(tmp_path, text, message):
    config = write_classes(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        TraceLabels.from_table(table_of(tmp_path, ["x"]), config)
