"""What a run says: alarms with cause and remedy, Ray metrics, the dashboard that shows them, operations counted."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.config import BackboneConfig, LossConfig, MaskConfig, ModelConfig
from model.pretrain import PretrainModel
from raysys.config import RunConfig
from raysys.train.flops import forward_flops, peak_flops, training_flops
from raysys.train.gauges import DESCRIPTIONS, exported_name
from raysys.train.metrics import RunLog
from tests.train.local import local_trainer

DASHBOARD = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "raysys.json"


def test_the_dashboard_shows_the_metrics_that_the_code_exports_and_no_others():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    shown = {name for text in expressions for name in re.findall(r"\bray_raysys_\w+", text)}
    assert shown == {exported_name(name) for name in DESCRIPTIONS}


def test_every_exported_metric_is_one_that_a_run_writes(smoke, tmp_path):
    from raysys.train.data import prepare_training_data

    config = smoke.override({"train.max_steps": 2, "train.validate_every": 2})
    local_trainer(config, prepare_training_data(config), tmp_path, tmp_path).run()
    written = {key for line in (tmp_path / "metrics.jsonl").read_text().splitlines() for key in json.loads(line)}
    only_gpu = {"perf/mfu", "mem/peak_gib"}
    assert set(DESCRIPTIONS) - only_gpu <= written


def test_an_alarm_names_cause_and_remedy_once_until_it_is_over(tmp_path, caplog):
    log = RunLog(tmp_path, 10)
    for step, used in enumerate((0.1, 0.1, 0.5, 0.1)):
        log.write({"codebook/used_fraction": used}, step)
    alarms = [record.message for record in caplog.records if "ALARM collapse" in record.message]
    assert len(alarms) == 2
    assert "10%" in alarms[0]
    assert "loss.diversity_lambda" in alarms[0]
    log.close()


def test_alarms_for_waiting_and_for_skipped_steps(tmp_path, caplog):
    log = RunLog(tmp_path, 10, skipped=3.0)
    log.write({"perf/data_wait_fraction": 0.9, "train/skipped_steps": 3.0}, 1)
    assert not caplog.records, "a first wait is the start, and steps skipped in an earlier life are known"
    log.write({"perf/data_wait_fraction": 0.9, "train/skipped_steps": 5.0}, 2)
    assert "ALARM data" in caplog.text
    assert "jobs.prepare" in caplog.text
    assert "ALARM step: 2 steps" in caplog.text
    log.close()


def test_mfu_is_operations_a_second_over_the_peak(tmp_path):
    log = RunLog(tmp_path, 10, flops_over_peak=1e-3)
    metrics = log.write_line(log.end_line(1, 100, 0.0, {}, {"train/skipped_steps": torch.zeros(())}))
    assert metrics["perf/mfu"] == pytest.approx(metrics["perf/windows_per_s"] * 1e-3)
    log.close()
    assert peak_flops(RunConfig(), torch.device("cpu")) is None


def test_counted_operations_are_those_that_pytorch_counts():
    """In parts whose kernels do what the mathematics says; dense blocks make the maps of the mLSTM such a part too."""
    backbone = BackboneConfig(width=32, num_layers=1, num_heads=1, qkv_block=64, pool=(4,), expand=1, dropout=0.0)
    config = ModelConfig(window_samples=512, backbone=backbone)
    mask = MaskConfig(ratio=0.625)  # 80 of 128 frames, a multiple of 8: none are padded
    model = PretrainModel(config, mask, LossConfig()).eval()
    counted = forward_flops(config, mask, LossConfig())
    with FlopCounterMode(display=False, depth=4) as counter, torch.no_grad():
        model(torch.randn(1, 3, 512), window_id=torch.zeros(1, dtype=torch.long))
    seen = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    assert counted["encoder"] == seen["PretrainModel.backbone.encoder"]
    assert counted["project"] == seen["PretrainModel.backbone.project"]
    assert counted["head"] == seen["PretrainModel.head"]
    assert counted["quantizer"] == pytest.approx(seen["PretrainModel.quantizer"], rel=0.01)
    assert counted["unet"] == pytest.approx(seen["PretrainModel.backbone.unet"], rel=0.11)
    assert training_flops(RunConfig()) == pytest.approx(3 * sum(forward_flops(*_parts(RunConfig())).values()))


def _parts(config: RunConfig) -> tuple[ModelConfig, MaskConfig, LossConfig]:
    return config.model, config.mask, config.loss
