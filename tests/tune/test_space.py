"""Search spaces as text."""

import pytest

from raysys.config import RunConfig
from raysys.tune.space import parse_space


def test_the_default_space_has_the_four_keys():
    space = parse_space(RunConfig().search.space, RunConfig())
    assert set(space) == {"loss.diversity_lambda", "loss.temperature", "loss.num_negatives", "mask.ratio"}
    for _ in range(50):
        assert 0.01 <= space["loss.diversity_lambda"].sample() <= 1
        assert space["loss.num_negatives"].sample() in (25, 50, 100, 200)


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
        ("loss.temperature=normal(0, 1)", "one of uniform, loguniform"),
        ("loss.similarity=choice(cosine)", "texts need quotes"),
    ],
)
def test_a_bad_entry_is_one_clear_error(entry, message):
    with pytest.raises(ValueError, match=message):
        parse_space((entry,), RunConfig())
