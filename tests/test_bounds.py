"""Every number of the configuration says what it may be, and a number out of bounds is refused by its key."""

import dataclasses
import types
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from model.bounds import Bounds
from raysys.config import RunConfig
from raysys.tune.schedulers import check_space
from raysys.tune.space import parse_space

ZERO_MEANS = {
    "data.alpha": "every data set has the same share",
    "data.weights": "nothing of this data set",
    "data.split_seed": "a seed",
    "optim.quantizer_lr": "the quantizer does not learn",
    "optim.betas": "no memory",
    "optim.weight_decay": "none",
    "optim.warmup": "none",
    "train.seed": "a seed",
    "train.epochs": "train.max_steps sets the budget; refused without it",
    "train.max_failures": "a run that failed is not tried again",
    "train.wait_for_nodes_h": "a run does not wait",
    "probe.before_s": "a frame counts from the onset on",
    "search.max_failures": "a trial that died is given up",
    "search.top_k": "nothing is run again",
    "search.min_perplexity_fraction": "no gate",
    "model.highpass_hz": "no high-pass",
    "model.backbone.dropout": "none",
    "model.quantizer.ema_decay": "no memory",
    "model.quantizer.commitment": "no such loss",
    "model.quantizer.revive_below": "no code is revived",
    "loss.diversity_lambda": "no such loss",
    "head.dropout": "none",
    "head.span_mask": "none",
    "head.channel_mask": "none",
    "finetune.label_draw": "a seed",
    "finetune.at_onsets": "windows lie anywhere",
    "finetune.frozen": "the backbone learns from the first step on",
    "finetune.average": "none",
    "finetune.backbone_lr": "the backbone stays as it is",
    "augment.flip": "none",
    "augment.drop_component": "none",
    "augment.noise": "none",
    "augment.real_noise": "none",
    "augment.gap": "none",
}
"""Key -> what its zero does."""


def numeric(kind: type, prefix: str = "") -> dict[str, Any]:
    """Every dotted key that holds numbers, with its type."""
    out = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if dataclasses.is_dataclass(hint):
            out |= numeric(hint, f"{prefix}{name}.")
        elif is_numeric(hint):
            out[prefix + name] = hint
    return out


def is_numeric(hint: Any) -> bool:
    inside = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return hint in (int, float) or any(is_numeric(part) for part in inside)


def like(hint: Any, number: float) -> Any:
    """A value of a type that holds a number."""
    kind, inside = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return inside[0](number)
    if kind in (Union, types.UnionType):
        return like(next(part for part in inside if is_numeric(part)), number)
    if kind is tuple:
        return [like(inside[0], number)] * (1 if inside[-1] is ... else len(inside))
    return {"ETHZ": like(inside[1], number)} if kind is dict else hint(number)


KEYS = numeric(RunConfig)


def test_the_numbers_are_found():
    assert {"train.log_every", "data.weights", "model.backbone.pool", "train.max_steps", "optim.betas"} <= set(KEYS)
    assert set(ZERO_MEANS) <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_a_number_out_of_bounds_is_refused_by_its_key(key):
    numbers = [-1] if key in ZERO_MEANS else [-1, 0]
    numbers += [] if like(KEYS[key], 0.5) == like(KEYS[key], 0) else [float("nan"), float("inf")]
    for number in numbers:
        value = like(KEYS[key], number)
        with pytest.raises(ValueError, match=key.replace(".", r"\.")):
            RunConfig().override({key: value})
    if key in ZERO_MEANS:
        steps = {"train.max_steps": 1} if key == "train.epochs" else {}
        RunConfig().override({key: like(KEYS[key], 0)} | steps)


@pytest.mark.parametrize("key", ["train.seed", "mask.ratio", "optim.warmup", "search.grace", "model.backbone.dropout"])
def test_what_is_absurdly_large_is_refused_where_there_is_an_end(key):
    with pytest.raises(ValueError, match=key.replace(".", r"\.") + r"=1000000000.* must lie in"):
        RunConfig().override({key: like(KEYS[key], 1e9)})


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        (Bounds(0, 1, "[)"), (0, 0.99), (-0.01, 1)),
        (Bounds(0, 1, "(]"), (0.01, 1), (0, 1.01)),
        (Bounds(2), (2, 1e30), (1, float("inf"), float("nan"))),
    ],
)
def test_ends_belong_to_bounds_where_they_say_so(bounds, inside, outside):
    assert all(bounds.hold(number) for number in inside)
    assert not any(bounds.hold(number) for number in outside)


@pytest.mark.parametrize(
    "entry",
    [
        "mask.ratio=uniform(0, 0.5)",
        "mask.ratio=choice(0.5, 1.5)",
        "loss.num_negatives=randint(0, 5)",
        "optim.lr=grid(0.0)",
    ],
)
def test_a_search_space_with_a_value_out_of_bounds_is_refused(entry):
    for scheduler in ("asha", "none"):
        config = RunConfig().override({"search.scheduler": scheduler})
        with pytest.raises(ValueError, match=r"search\.space: .* must "):
            check_space(config, parse_space((entry,), config))


def test_the_end_of_a_range_is_not_drawn_and_may_be_out_of_bounds():
    check_space(
        RunConfig(), parse_space(("mask.ratio=uniform(0.1, 1)", "loss.num_negatives=randint(1, 5)"), RunConfig())
    )
