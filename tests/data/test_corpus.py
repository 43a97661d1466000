"""All data sets as one table: in order, without what was dropped, summed up and known by its digest."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from raysys.config import DataConfig
from raysys.data.corpus import LEAKED, fingerprint, load_corpus, select, summary, train_plan
from raysys.data.plan import Plan
from raysys.data.quality import quality_report
from raysys.data.windows import Traces
from tests.data.conftest import write_set

MISSING = "no such trace in the waveform file (or beyond its end)"


@pytest.fixture
def config(tmp_path) -> DataConfig:
    """Two sets: "b" has splits, labels and flaws, "a" has none of them and another rate."""
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal((3, 800 + i)).astype(np.float32) for i in range(9)]
    waveforms[0][:] = waveforms[5][:] = 7.0
    waveforms[6][:, 100:300] = 0.5
    waveforms[8] = np.full((3, 90), 7.0, np.float32)
    columns = {
        "split": ["train"] * 5 + ["dev", "test", "test", "train"],
        "trace_P_arrival_sample": [100] * 7 + [""] * 2,
        "trace_S_arrival_sample": [300] * 4 + [""] * 5,
    }
    write_set(tmp_path / "data/b", waveforms, columns=columns)
    write_set(tmp_path / "data/a", waveforms[1:5] * 5, rate_hz=50.0)
    with (tmp_path / "data/a/metadata.csv").open("a") as file:
        file.write('"absent",50.0\n')
    return DataConfig(root=str(tmp_path / "data"), datasets=("b", "a"), cache=str(tmp_path / "cache"), scan=True)


def changed(config: DataConfig, **options) -> DataConfig:
    return dataclasses.replace(config, **options)


def test_a_corpus_holds_the_sets_in_the_order_asked_for_without_what_is_dropped(config):
    corpus = load_corpus(config)
    assert corpus["dataset"].to_pylist() == ["b"] * 6 + ["a"] * 20
    assert corpus["node_row"].to_pylist() == [1, 2, 3, 4, 6, 7, *range(20)]
    one, two = quality_report(corpus)
    assert one == {
        "dataset": "b",
        "traces": 6,
        "left_out": {"dead": 3, "short": 1},
        "kept": {"gap": 1},
        "scanned": True,
        "ignored": {},
    }
    assert (two["dataset"], two["traces"], two["left_out"]) == ("a", 20, {MISSING: 1})
    only = quality_report(load_corpus(changed(config, drop=("short",))))[0]
    assert (only["left_out"], only["kept"]) == ({"short": 1}, {"dead": 2, "gap": 1}), "a flaw that drops nothing"
    blind = load_corpus(changed(config, scan=False, cache=config.cache + "2"))
    assert len(blind) == 29
    assert [row["scanned"] for row in quality_report(blind)] == [False, False]


def test_a_summary_counts_splits_labels_and_rates(config):
    one, two = summary(load_corpus(config))
    counts = ("dataset", "traces", "train", "dev", "test", "p_labels", "s_labels", "rates_hz", "kept")
    assert [one[name] for name in counts] == ["b", 6, 4, 0, 2, 5, 3, [100.0], {"gap": 1}]
    assert (two["p_labels"], two["s_labels"], two["rates_hz"]) == (0, 0, [50.0])
    assert two["train"] + two["dev"] + two["test"] == 20


def test_a_split_is_its_rows_in_the_same_order(config):
    corpus = load_corpus(config)
    for split in ("train", "dev", "test"):
        expected = [i for i, s in enumerate(corpus["split"].to_pylist()) if s == split]
        assert select(corpus, split).to_pandas().equals(corpus.take(expected).to_pandas())


def test_the_seed_of_the_splits_is_that_of_the_configuration(config):
    one, two = (load_corpus(changed(config, split_seed=seed))["split"].to_pylist() for seed in (0, 1))
    assert one[:6] == two[:6]
    assert one[6:] != two[6:]


def test_leaks_are_left_out_of_the_set_that_they_train(tmp_path):
    waveforms = [np.ones((3, 900), np.float32)] * 5
    for name, split, events in (("one", ["train"] * 4 + ["dev"], "aabcd"), ("two", ["train"] * 4 + ["test"], "defga")):
        write_set(tmp_path / "data" / name, waveforms, columns={"split": split, "source_id": list(events)})
    config = DataConfig(root=str(tmp_path / "data"), datasets=("all",), cache=str(tmp_path), exclude_leaks=True)
    corpus = load_corpus(config)
    assert "".join(corpus["event"].to_pylist()) == "bcdefga"
    assert [(row["traces"], row["left_out"]) for row in quality_report(corpus)] == [(3, {LEAKED: 2}), (4, {LEAKED: 1})]


def test_a_training_plan_is_what_the_configuration_says(config):
    corpus = load_corpus(config)
    traces = Traces.from_table(select(corpus, "train"))
    sizes = 4, len(traces) - 4
    options = {"crops_per_visit": 3, "run_rows": 2, "shuffle_rows": 6}
    plan = train_plan(changed(config, **options), traces, seed=5)
    assert plan == Plan(sizes=sizes, quotas=sizes, seed=5, crops=3, run_rows=2, shuffle_rows=6)
    even = train_plan(changed(config, alpha=0.0), traces, 5)
    assert even.sizes == sizes
    assert even.quotas[0] == pytest.approx(sum(sizes) / 2, abs=1)
    by_hand = train_plan(changed(config, weights={"a": 1.0, "b": 3.0}), traces, 5).quotas
    assert by_hand[0] == pytest.approx(3 * by_hand[1], abs=3)
    with pytest.raises(ValueError, match="no trace in the training split"):
        train_plan(config, Traces.from_table(corpus.slice(0, 0)), 5)


def test_a_digest_is_of_everything_that_decides_what_is_trained_on(config):
    corpus = load_corpus(config)
    digests = {fingerprint(corpus), fingerprint(load_corpus(config))}
    assert len(digests) == 1, "the cache changes nothing"
    names = ("dataset", "chunk", "trace_name", "split", "rate_hz", "num_samples", "p_s", "s_s")
    for name in names:
        values = corpus[name].to_pylist()
        values[-1] = values[-1] + (1 if isinstance(values[-1], int) else "x") if name in names[:4] else 123
        column = pa.chunked_array([pa.array(values, corpus.schema.field(name).type)])
        digests.add(fingerprint(corpus.set_column(corpus.schema.names.index(name), name, column)))
    digests.add(fingerprint(corpus.take(np.roll(np.arange(len(corpus)), 1))))
    assert len(digests) == len(names) + 2
    elsewhere = pa.array(["elsewhere"] * len(corpus))
    moved = corpus.set_column(corpus.schema.names.index("file"), "file", elsewhere)
    assert fingerprint(moved) in digests, "where the files lie is not part of it"
