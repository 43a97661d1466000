"""Search spaces as text."""

import pytest
from ray.tune.search import sample

from raysys.config import RunConfig
from raysys.tune.space import parse_space


def test_the_default_space_has_the_four_keys():
    space = parse_space(RunConfig().search.space, RunConfig())
    assert set(space) == {"loss.diversity_lambda", "loss.temperature", "loss.num_negatives", "mask.ratio"}
    assert space["loss.num_negatives"].categories == [25, 50, 100, 200]


@pytest.mark.parametrize(
    ("entry", "bounds", "kind", "sampler"),
    [
        ("loss.temperature=loguniform(0.05, 0.5)", (0.05, 0.5), sample.Float, sample.LogUniform),
        (" mask.ratio = uniform(0.35, 0.8) ", (0.35, 0.8), sample.Float, sample.Uniform),
        ("optim.warmup=uniform(0, 1e-1)", (0, 0.1), sample.Float, sample.Uniform),
        ("mask.span_frames=randint(4, 12)", (4, 12), sample.Integer, sample.Uniform),
    ],
)
def test_a_range_has_its_bounds_and_its_scale(entry, bounds, kind, sampler):
    (domain,) = parse_space((entry,), RunConfig()).values()
    assert isinstance(domain, kind)
    assert (domain.lower, domain.upper) == bounds
    assert isinstance(domain.get_sampler(), sampler)


def test_any_dotted_key_and_any_kind():
    space = parse_space(
        ("optim.lr=loguniform(1e-4, 1e-2)", "train.seed=grid(0, 1, 2)", "loss.similarity=choice('cosine', 'dot')"),
        RunConfig(),
    )
    assert 1e-4 <= space["optim.lr"].sample() <= 1e-2
    assert space["train.seed"] == {"grid_search": [0, 1, 2]}
    assert space["loss.similarity"].sample() in ("cosine", "dot")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("loss.temperature", "cannot read 'loss.temperature'"),
        ("loss.temprature=uniform(0, 1)", "did you mean 'loss.temperature'"),
        ("loss.temperature=uniform(1, 0)", "needs a lower and a higher bound"),
        ("loss.temperature=uniform(1, 1)", "needs a lower and a higher bound"),
        ("loss.temperature=loguniform(0.1)", "needs a lower and a higher bound"),
        ("loss.temperature=uniform(0, 1, 2)", "needs a lower and a higher bound"),
        ("loss.temperature=normal(0, 1)", "one of uniform, loguniform"),
        ("loss.similarity=choice(cosine)", "texts need quotes"),
    ],
)
def test_a_bad_entry_is_one_clear_error(entry, message):
    with pytest.raises(ValueError, match=message):
        parse_space((entry,), RunConfig())


def test_what_trials_begin_with_is_found_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = parse_space(("finetune.init=grid('scratch', 'phasenet', 'results/run', 's3://bucket/run')",), RunConfig())
    there = ["scratch", "phasenet", f"{tmp_path}/results/run", "s3://bucket/run"]
    assert space["finetune.init"] == {"grid_search": there}
