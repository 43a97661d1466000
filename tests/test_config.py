"""One tree, one dotted key everywhere."""

import json

import pytest

from jobs.command import parse
from raysys.config import MAY_CHANGE, RunConfig, differences, keys
from raysys.presets import PRESETS
from raysys.record import read_config, write_run
from raysys.train.describe import describe


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_a_round_trip_and_a_dry_run(name):
    config = PRESETS[name]()
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    text = describe(config)
    assert "total" in text
    assert "GiB" in text


def test_a_run_written_when_a_key_had_another_name_is_read():
    tree = RunConfig().override({"search.min_perplexity_fraction": 0.3}).to_dict()
    tree["search"]["min_used_fraction"] = tree["search"].pop("min_perplexity_fraction")
    assert RunConfig.from_dict(tree).search.min_perplexity_fraction == 0.3
    assert "min_used_fraction" in tree["search"], "what was given stays as it is"


def test_the_base_preset_is_the_published_size():
    text = describe(PRESETS["base"]())
    assert "14,044,736" in text
    assert "masked frames: 666 of 1024; negatives: 100" in text


def test_override_takes_dotted_keys_and_checks_again():
    config = RunConfig().override({"optim.lr": 3e-4, "model.backbone.pool": [4, 2], "data.weights": {"ETHZ": 2.0}})
    assert config.optim.lr == 3e-4
    assert config.model.backbone.pool == (4, 2)
    assert differences(RunConfig(), config)["optim.lr"] == (1e-3, 3e-4)
    with pytest.raises(ValueError, match=r"mask\.ratio=1\.5 must lie in \(0, 1\)"):
        config.override({"mask.ratio": 1.5})


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ({"data.alpha": -0.01}, {"data.alpha": 0.0}),
        ({"data.shard_mb": 0}, {"data.shard_mb": 1}),
        ({"data.datasets": []}, {"data.datasets": ["ETHZ"]}),
        ({"optim.lr": 0.0}, {"optim.lr": 1e-9}),
        ({"optim.warmup": 1.0}, {"optim.warmup": 0.0}),
        ({"optim.warmup": -0.1}, {"optim.warmup": 0.99}),
        ({"train.batch_size": 0}, {"train.batch_size": 1}),
        ({"train.epochs": 0.0}, {"train.epochs": 0.0, "train.max_steps": 1}),
        ({"train.patience": 0}, {"train.patience": 1}),
        ({"train.num_workers": 0}, {"train.num_workers": 1}),
        ({"train.min_workers": 2}, {"train.min_workers": 1}),
        ({"train.min_workers": 0}, {"train.min_workers": 2, "train.num_workers": 2}),
        ({"search.reduction_factor": 1}, {"search.reduction_factor": 2}),
        ({"search.grace": 0.0}, {"search.grace": 1.0}),
        ({"search.grace": 1.01}, {"search.grace": 0.01}),
        ({"search.brackets": 0}, {"search.brackets": 1}),
        ({"search.top_k": -1}, {"search.top_k": 0}),
        ({"search.top_k_seeds": 0}, {"search.top_k_seeds": 1}),
        ({"search.scheduler": "pbt", "search.searcher": "tpe"}, {"search.scheduler": "asha", "search.searcher": "tpe"}),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key_and_the_last_one_in_range_is_not(bad, good):
    with pytest.raises(ValueError, match=next(iter(bad)).replace(".", r"\.")):
        RunConfig().override(bad)
    RunConfig().override(good)


def test_only_keys_that_leave_the_result_alone_may_change_when_a_run_goes_on():
    known = keys(RunConfig())
    assert set(known) >= MAY_CHANGE, "a misspelt key would be one that may not change"
    assert {key for key in MAY_CHANGE if not key.startswith(("data.", "train."))} == {"storage"}
    decides = {part: {key for key in known if key.startswith(part)} - MAY_CHANGE for part in ("data.", "train.")}
    assert decides["data."] == {
        f"data.{key}"
        for key in (
            *("datasets", "alpha", "weights", "crops_per_visit", "run_rows", "shuffle_rows", "split_seed", "scan"),
            *("drop", "exclude_leaks"),
        )
    }
    assert decides["train."] == {
        f"train.{key}"
        for key in (
            *("seed", "batch_size", "epochs", "max_steps", "device", "precision", "compile", "deterministic"),
            "val_windows",
        )
    }


def test_differences_name_every_changed_key_with_the_old_and_the_new_value():
    new = RunConfig(name="b").override({"model.backbone.pool": [4, 2], "data.weights": {"ETHZ": 2.0}})
    assert differences(RunConfig(), new) == {
        "name": ("base", "b"),
        "model.backbone.pool": ((4, 4), (4, 2)),
        "data.weights": ({}, {"ETHZ": 2.0}),
    }


@pytest.mark.parametrize(
    ("key", "near"), [("optm.lr", "optim.lr"), ("train.batch_sizes", "train.batch_size"), ("lr", "optim.lr")]
)
def test_an_unknown_key_is_refused_with_a_suggestion(key, near):
    with pytest.raises(ValueError, match=f"unknown configuration key '{key}': did you mean '{near}'"):
        RunConfig().override({key: 1})


def test_a_value_of_the_wrong_type_names_its_key():
    with pytest.raises(ValueError, match=r"optim\.lr='fast'"):
        RunConfig().override({"optim.lr": "fast"})
    with pytest.raises(ValueError, match=r"train\.batch_size=2\.5"):
        RunConfig().override({"train.batch_size": 2.5})


def test_the_command_line_speaks_the_same_keys():
    config, options = parse("", argv=["smoke", "--optim.lr", "3e-4", "--data.datasets", "ETHZ", "STEAD"])
    assert (config.optim.lr, config.data.datasets, options.dry_run) == (3e-4, ("ETHZ", "STEAD"), False)
    assert all(config_key in keys(config) for config_key in ("optim.lr", "data.datasets"))


def test_the_command_line_refuses_what_it_does_not_know(capsys):
    with pytest.raises(SystemExit):
        parse("", argv=["smoke", "--optm.lr", "1"])
    assert "--optim.lr" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="unknown preset 'smok': did you mean 'smoke'"):
        parse("", argv=["smok"])


def test_from_run_repeats_a_run_with_changes(tmp_path):
    config = PRESETS["smoke"]().override({"optim.lr": 5e-4})
    write_run(str(tmp_path / "run"), config, {"data_fingerprint": "x"})
    again, _ = parse("", argv=["--from-run", str(tmp_path / "run"), "--name", "again"])
    assert differences(config, again) == {"name": ("smoke", "again")}
    with pytest.raises(FileNotFoundError, match=r"no config\.json or best\.json"):
        read_config(str(tmp_path))


def test_a_name_that_is_taken_by_another_configuration_is_refused_with_a_diff(tmp_path):
    config = PRESETS["smoke"]()
    write_run(str(tmp_path / "run"), config, {"data_fingerprint": "x"})
    write_run(str(tmp_path / "run"), config, {"data_fingerprint": "x"})
    with pytest.raises(ValueError, match=r"optim\.lr: 0\.001 -> 0\.002"):
        write_run(str(tmp_path / "run"), config.override({"optim.lr": 2e-3}), {"data_fingerprint": "x"})
    with pytest.raises(ValueError, match="the data has changed"):
        write_run(str(tmp_path / "run"), config, {"data_fingerprint": "y"})
