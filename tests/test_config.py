"""One tree, one dotted key everywhere."""

import json

import pytest

from jobs.command import parse
from raysys.config import RunConfig, differences, keys
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
