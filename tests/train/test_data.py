"""What a run reads: which split feeds what, and what no seed changes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from raysys.data import files
from raysys.data.corpus import load_corpus, select
from raysys.data.fixed_windows import fixed_windows
from raysys.data.windows import read_windows
from raysys.train import data as training
from raysys.train.data import prepare_training_data


def same(one, other) -> bool:
    """Whether two sets hold the same windows with the same picks."""
    columns = ("waveform", "num_valid", "p_sample", "s_sample")
    return all(np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True) for name in columns)


def test_every_set_comes_from_its_split_and_no_seed_changes_those_that_score(smoke, data):
    config = smoke.override(
        {"train.seed": 7, "train.val_windows": 13, "probe.fit_windows": 11, "probe.score_windows": 7}
    )
    mine, corpus = prepare_training_data(config), load_corpus(config.data)
    train, dev = select(corpus, "train"), select(corpus, "dev")
    assert (mine.plan.seed, data.plan.seed) == (7, smoke.train.seed)
    assert len(mine.traces) == len(train) == mine.plan.epoch_windows
    assert mine.fingerprint == data.fingerprint
    for found, split, count, seed, labelled in (
        (mine.validation, dev, 13, 0, False),
        (mine.probe_fit, train, 11, 1, True),
        (mine.probe_score, dev, 7, 2, True),
    ):
        assert len(found) == count
        assert same(found, fixed_windows(split, count, 512, 20_200_101 + seed, labelled=labelled))
    again = prepare_training_data(smoke.override({"train.seed": 7}))
    assert all(same(getattr(again, name), getattr(data, name)) for name in ("validation", "probe_fit", "probe_score"))


@pytest.mark.parametrize("datasets", [["all"], ["{}/iquique", "{}/stead/"]], ids=["root", "paths"])
def test_relative_places_are_found_from_another_working_directory(smoke, tmp_path, monkeypatch, datasets):
    root = Path(smoke.data.root)
    monkeypatch.chdir(root.parent)
    names = [name.format(root.name) for name in datasets]
    near = smoke.override({"data.root": root.name, "data.datasets": names, "data.cache": str(tmp_path)})
    far = smoke.override({"data.datasets": [name.format(root) for name in datasets]})
    ours, theirs = (prepare_training_data(config).traces for config in (near, far))
    monkeypatch.chdir(tmp_path)
    for cached in (files.open_local, files._hdf5):
        cached.cache_clear()  # another process has none of these open
    ids = np.arange(len(ours))
    found, wanted = (read_windows(one, ids, 0 * ids, 512)[0] for one in (ours, theirs))
    np.testing.assert_array_equal(found, wanted)


def test_a_run_without_windows_to_validate_on_is_refused(smoke, monkeypatch):
    real = training.select
    monkeypatch.setattr(training, "select", lambda corpus, split: real(corpus, "none" if split == "dev" else split))
    with pytest.raises(ValueError, match="nothing to validate on"):
        prepare_training_data(smoke)


def test_all_large_fields_are_shared_and_none_but_those(data, monkeypatch):
    monkeypatch.setattr(training.ray, "put", lambda value: ("there", id(value)))
    shared = data.shared()
    large = {"traces", "validation", "probe_fit", "probe_score"}
    for field in dataclasses.fields(data):
        value = getattr(data, field.name)
        assert getattr(shared, field.name) == (("there", id(value)) if field.name in large else value)
    assert data.get("probe_fit") is data.probe_fit
