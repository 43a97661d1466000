"""Data sets that are not learnt from: what a run reads, by what it is chosen, and what is refused."""

import dataclasses
import logging

import numpy as np
import pytest
from ray.tune.search.variant_generator import generate_variants

from raysys.train.data import check_objective, prepare_training_data
from raysys.train.forecast import run_forecast
from raysys.train.left_out import check_left_out, dev_groups
from raysys.tune.schedulers import check_space
from raysys.tune.space import parse_space
from tests.train.local import local_trainer


@pytest.fixture(scope="module")
def every(picking):
    """What the runs of a sweep share."""
    return prepare_training_data(picking)


def without(config, *names: str, **more):
    return config.override({"finetune.left_out": names, **more})


def names(one) -> np.ndarray:
    """The data set of each trace or window."""
    return np.array(one.datasets)[one.dataset]


def test_a_set_is_not_learnt_from_and_the_others_are_as_before(every, picking, caplog):
    config = picking.override({"finetune.label_fraction": 0.5, "train.max_steps": 64})
    whole = every.of_run(config)
    with caplog.at_level(logging.INFO):
        part = every.of_run(without(config, "ETHZ", "STEAD"))
    stay = ~np.isin(names(whole.traces), ["ETHZ", "STEAD"])
    np.testing.assert_array_equal(part.labels.unit, whole.labels.unit[stay])
    np.testing.assert_array_equal(part.traces.offset, whole.traces.offset[stay])
    assert part.plan.epoch_windows == stay.sum()
    assert set(part.plan.visits(0, 200)[1]) == set(range(stay.sum()))
    assert part.fingerprint == whole.fingerprint, "the same data, for a sweep"
    told, before = part.contents["labels"], whole.contents["labels"]
    assert told["by_dataset"] == {k: v for k, v in before["by_dataset"].items() if k not in ("ETHZ", "STEAD")}
    assert told["traces"] == stay.sum()
    assert told["of"] == sum(count for _, count in told["by_dataset"].values())
    dev = {name: int((names(part.validation) == name).sum()) for name in ("ETHZ", "STEAD")}
    training = {name: before["by_dataset"][name][1] for name in dev}
    assert told["left_out"] == {name: {"training": training[name], "dev": dev[name]} for name in dev}
    assert told["dev"] == before["dev"] == len(part.validation)
    assert "left_out" not in before
    assert f"left out, and alone in dev/score: {told['left_out']}" in caplog.text


def test_shares_by_hand_may_name_a_set_that_is_left_out(every, picking):
    config = without(picking, "ETHZ", **{"data.weights": {"ETHZ": 3.0, "STEAD": 1.0}})
    mine = every.of_run(config)
    assert [quota > 0 for quota in mine.plan.quotas] == [name == "STEAD" for name in mine.traces.datasets]


@pytest.mark.parametrize("task", ["pick", "detect", "classify"])
def test_dev_scores_are_those_of_the_left_out_sets_alone(picking, tmp_path, task):
    config = without(picking, "ETHZ", "Iquique", task=task)
    data = prepare_training_data(config).of_run(config)
    metrics = local_trainer(config, data, tmp_path).task.validate()[0]
    away = np.isin(names(data.validation), ["ETHZ", "Iquique"])
    for group, some in {"dev": away, "dev_home": ~away}.items():
        alone = dataclasses.replace(data, validation=data.validation.take(some))
        expected = local_trainer(picking.override({"task": task}), alone, tmp_path).task.validate()[0]
        found = {name.replace(f"{group}/", "dev/"): v for name, v in metrics.items() if name.startswith(f"{group}/")}
        assert found == pytest.approx(expected, rel=0, abs=0, nan_ok=True)
    assert metrics["dev/loss"] != metrics["dev_home/loss"]
    assert len(metrics) == 2 * len(expected)


def test_the_checkpoint_and_the_end_of_a_run_go_by_the_left_out_sets(every, picking, tmp_path):
    config = without(picking, "ETHZ", **{"train.patience": 1, "train.validate_every": 2, "train.max_steps": 40})
    trainer = local_trainer(config, every.of_run(config), tmp_path)
    scores = iter([(0.1, 0.1), (0.3, 0.2), (0.2, 0.9)])
    trainer.task.validate = lambda: (dict(zip(("dev/score", "dev_home/score"), next(scores), strict=True)), {})
    assert trainer.run()["step"] == 4
    assert trainer.best.score == 0.3


def test_where_no_other_set_has_dev_windows_there_are_no_scores_of_home(every):
    windows = every.validation
    assert list(dev_groups(windows, tuple(set(names(windows))))) == ["dev"]
    assert list(dev_groups(windows, ())) == ["dev"]
    assert dev_groups(windows, ())["dev"] is windows


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        (
            ("mesetas",),
            r"left_out=\('mesetas',\): 'mesetas' is none of the data sets of the run: ETHZ, GEOFON, .*STEAD",
        ),
        (("ETHZ", "stead"), "'stead' is none"),
        (("PNW",), "no label in the dev split.*some in ETHZ, GEOFON, InstanceCounts"),
    ],
)
def test_what_cannot_be_left_out_is_refused_with_what_can(every, picking, left_out, message):
    with pytest.raises(ValueError, match=message):
        every.of_run(without(picking, *left_out))
    with pytest.raises(ValueError, match=message):  # before a sweep begins
        prepare_training_data(without(picking, *left_out))


def test_one_set_with_labels_has_to_stay(every, picking):
    with pytest.raises(ValueError, match="no labelled data set is left to learn from, of ETHZ, GEOFON"):
        every.of_run(without(picking, *every.traces.datasets))
    check_left_out((), ["a"], ["a"], ["a"])
    with pytest.raises(ValueError, match=r"no labelled data set is left to learn from, of a$"):
        check_left_out(("a",), ["a", "unlabelled"], ["a"], ["a"])


def test_a_set_that_gives_no_score_cannot_choose(every, picking):
    config = without(picking, "GEOFON")
    with pytest.raises(ValueError, match="dev split of GEOFON has no onset of S"):
        check_objective(config, every.of_run(config))
    check_objective(picking, every)
    both = without(picking, "GEOFON", "ETHZ")
    check_objective(both, every.of_run(both))


def test_a_dry_run_counts_what_is_left(picking, every):
    kept = len(every.traces) - int((names(every.traces) == "ETHZ").sum())
    assert f"labelled traces to learn from: {len(every.traces)} (" in run_forecast(picking)
    assert f"labelled traces to learn from: {kept} (" in run_forecast(without(picking, "ETHZ"))


def test_leaving_out_one_set_after_the_other_is_one_sweep(picking):
    space = "finetune.left_out=grid(('ETHZ',), ('STEAD',), ())"
    config = picking.override({"search.space": [space], "search.scheduler": "none"})
    parsed = parse_space(config.search.space, config)
    check_space(config, parsed)
    trials = [config.override(values).finetune.left_out for _, values in generate_variants(parsed)]
    assert trials == [("ETHZ",), ("STEAD",), ()]
