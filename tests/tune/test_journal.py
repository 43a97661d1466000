"""The Optuna study of a sweep says of every trial what became of it."""

from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection

from raysys.config import RunConfig
from raysys.location import Location
from raysys.tune.callbacks import JOURNAL, OptunaJournal
from raysys.tune.space import parse_space

SPACE = {
    "loss.temperature=loguniform(0.05, 0.5)": FloatDistribution(0.05, 0.5, log=True),
    "mask.ratio=uniform(0.35, 0.8)": FloatDistribution(0.35, 0.8),
    "mask.span_frames=randint(4, 12)": IntDistribution(4, 11),
    "loss.num_negatives=choice(25, 50)": CategoricalDistribution((25, 50)),
    "train.seed=grid(0, 1)": CategoricalDistribution((0, 1)),
}
TUNED = {
    "loss.temperature": 0.1,
    "mask.ratio": 0.5,
    "mask.span_frames": 7,
    "loss.num_negatives": 50,
    "train.seed": 1,
}


@pytest.fixture
def journal(tmp_path):
    return OptunaJournal(Location(tmp_path), "mine", parse_space(tuple(SPACE), RunConfig()), budget=100)


def report(journal, name, *windows_and_scores, **more):
    """A trial that has reported these scores, the last of them with `more`."""
    trial = SimpleNamespace(trial_id=name, config=TUNED, last_result={}, local_path=None)
    for windows, score in windows_and_scores:
        trial.last_result = {"windows": windows, "objective": score, **more}
        journal.on_trial_result(0, [], trial, trial.last_result)
    return trial


def test_every_trial_is_shown_with_its_values_scores_and_outcome(journal, tmp_path):
    whole = report(journal, "a", (50, 0.3), (100, 0.5))
    stopped = report(journal, "b", (50, 0.2), reason="collapsed")
    journal.on_trial_complete(0, [], stopped)
    journal.on_trial_complete(0, [], whole)
    failed = report(journal, "c", (50, 0.1))
    failed.local_path = str(tmp_path)
    (tmp_path / "error.txt").write_text("line 1\nOSError: gone\n")
    journal.on_trial_error(0, [], failed)
    report(journal, "d", (50, 0.7))
    study = optuna.load_study(study_name="mine", storage=JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL))))
    assert study.direction == StudyDirection.MAXIMIZE
    shown = {trial.user_attrs["trial"]: trial for trial in study.get_trials()}
    outcome = {name: (trial.state.name, trial.value) for name, trial in shown.items()}
    assert outcome == {"a": ("COMPLETE", 0.5), "b": ("PRUNED", 0.2), "c": ("FAIL", None), "d": ("RUNNING", None)}
    assert shown["a"].intermediate_values == {50: 0.3, 100: 0.5}
    assert [shown[name].user_attrs.get("reason") for name in "abc"] == [None, "collapsed", "OSError: gone"]
    assert shown["a"].params == TUNED
    assert list(shown["a"].distributions.values()) == list(SPACE.values())


def test_a_sweep_whose_folder_is_a_url_keeps_no_journal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = OptunaJournal(Location("memory://sweep"), "mine", {}, budget=100)
    journal.on_trial_complete(0, [], report(journal, "a", (100, 0.5)))
    assert not list(tmp_path.iterdir())
