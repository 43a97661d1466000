"""The numbers that a run gets where nothing else is said: the defaults, and what every preset changes of them."""

import pytest

from raysys.config import RunConfig, differences, keys
from raysys.presets import PRESETS

SPACE = (
    "loss.diversity_lambda=loguniform(0.01, 1)",
    "loss.temperature=loguniform(0.05, 0.5)",
    "loss.num_negatives=choice(25, 50, 100, 200)",
    "mask.ratio=uniform(0.35, 0.8)",
)
DEFAULTS = {
    "model": {"window_samples": 4096, "highpass_hz": 0.0, "target_dim": 256},
    "model.encoder": {"width": 256, "num_layers": 2, "kernel": 3, "stride": 2},
    "model.backbone": {
        **{"width": 128, "num_layers": 3, "pool": (4, 4), "expand": 2, "num_heads": 4, "up_factor": 2.0},
        **{"conv_kernel": 4, "qkv_block": 4, "gate_cap": 15.0, "ffn_factor": 1.6, "dropout": 0.1},
        **{"direction_weights": "shared", "kernel": "auto"},
    },
    "model.quantizer": {
        **{"kind": "gumbel", "num_groups": 2, "num_codes": 320, "code_dim": 128, "logits": "linear"},
        **{"scale_logits": False, "gumbel_start": 2.0, "gumbel_end": 0.5, "ema_decay": 0.8, "commitment": 0.25},
        **{"revive_below": 0.1, "rotation_trick": False, "fsq_levels": (8, 8, 5)},
    },
    "mask": {"ratio": 0.65, "span_frames": 10, "mode": "exact"},
    "loss": {
        **{"temperature": 0.1, "temperature_mode": "fixed", "temperature_end": 0.1, "similarity": "cosine"},
        **{"num_negatives": 100, "negatives": "row", "pool_frames": 2048, "queue_frames": 16384},
        **{"diversity_lambda": 0.1, "diversity": "linear", "frames": "masked"},
    },
    "data": {
        **{"root": "data", "datasets": ("all8",), "cache": "~/.cache/raysys", "reader": "ray", "alpha": 1.0},
        **{"weights": {}, "crops_per_visit": 1, "run_rows": 16, "shuffle_rows": 8192, "block_rows": 1024},
        **{"blocks_per_task": 16, "cpus_per_read": 1.0, "segment_rows": 1 << 20, "prefetch_batches": 4},
        **{"split_seed": 0, "scan": False, "drop": ("dead", "short"), "exclude_leaks": False},
        **{"shard_dtype": "float32", "shard_mb": 256},
    },
    "optim": {
        **{"lr": 1e-3, "quantizer_lr": None, "betas": (0.9, 0.95), "weight_decay": 0.1, "warmup": 0.2},
        **{"clip": 1.0, "accumulate": 1},
    },
    "train": {
        **{"seed": 0, "batch_size": 64, "epochs": 50.0, "max_steps": None, "num_workers": 1, "min_workers": None},
        **{"cpus_per_worker": 1.0, "device": "cuda", "precision": "auto", "compile": False, "deterministic": False},
        **{"validations_per_epoch": 4.0, "validate_every": None, "patience": None, "val_windows": 2048},
        **{"keep_checkpoints": 2, "max_failures": 3, "wait_for_nodes_h": 24.0, "log_every": 20, "max_bad_steps": 20},
    },
    "probe": {"fit_windows": 1024, "score_windows": 1024, "ridge": 1e-3, "before_s": 0.1, "after_s": 0.5},
    "search": {
        **{"space": SPACE, "objective": "probe/macro_ap", "num_trials": 24, "searcher": "random", "scheduler": "asha"},
        **{"reduction_factor": 3, "brackets": 1, "grace": 0.25, "rungs_per_budget": 8, "workers_per_trial": 1},
        **{"gpus_per_trial": 1.0, "cpus_per_trial": 1.0, "max_concurrent": None, "max_failures": 1, "top_k": 0},
        **{"top_k_seeds": 3, "min_perplexity_fraction": 0.2},
    },
}
SMALL = {
    **{"model.backbone.num_layers": 1, "model.backbone.num_heads": 2, "model.backbone.dropout": 0.0},
    **{"data.datasets": ("all",), "data.blocks_per_task": 2, "data.cpus_per_read": 0.25, "train.device": "cpu"},
    **{"train.cpus_per_worker": 0.5, "search.reduction_factor": 2},
}
CHANGES = {
    "smoke": SMALL
    | {
        **{"name": "smoke", "model.window_samples": 512, "model.encoder.width": 16, "model.backbone.width": 16},
        **{"model.quantizer.num_codes": 16, "model.quantizer.code_dim": 8, "model.target_dim": 16},
        **{"mask.span_frames": 4, "loss.num_negatives": 8, "data.block_rows": 32, "train.batch_size": 4},
        **{"train.max_steps": 8, "train.validate_every": 4, "train.val_windows": 16, "train.log_every": 2},
        **{"probe.fit_windows": 32, "probe.score_windows": 16, "search.num_trials": 4, "search.rungs_per_budget": 4},
    },
    "demo": SMALL
    | {
        **{"name": "demo", "model.window_samples": 1024, "model.encoder.width": 32, "model.backbone.width": 32},
        **{"model.quantizer.num_codes": 64, "model.quantizer.code_dim": 32, "model.target_dim": 64},
        **{"loss.num_negatives": 32, "data.block_rows": 256, "optim.lr": 3e-3, "train.batch_size": 8},
        **{"train.max_steps": 300, "train.num_workers": 2, "train.validate_every": 100, "train.val_windows": 128},
        **{"probe.fit_windows": 256, "probe.score_windows": 128, "search.num_trials": 8},
        "search.space": (*SPACE[:2], "loss.num_negatives=choice(8, 16, 32, 64)", SPACE[3]),
    },
    "small": {
        **{"name": "small", "model.window_samples": 3072, "model.highpass_hz": 1.0, "model.encoder.width": 32},
        **{"model.backbone.width": 32, "model.backbone.num_layers": 1, "model.backbone.num_heads": 2},
        **{"model.quantizer.num_codes": 64, "model.quantizer.code_dim": 32, "model.target_dim": 64},
        **{"loss.diversity": "entropy", "train.compile": True},
    },
    "base": {"loss.diversity": "entropy", "train.compile": True, "search.num_trials": 64},
    "large": {
        **{"name": "large", "model.backbone.width": 256, "model.backbone.num_layers": 4},
        **{"loss.diversity": "entropy", "train.compile": True},
    },
}


@pytest.mark.parametrize("part", DEFAULTS)
def test_the_defaults_are_those_of_the_specification(part):
    found = keys(RunConfig())
    wanted = DEFAULTS[part].items()
    assert {key: found[f"{part}.{key}"] for key, _ in wanted} == dict(wanted)


@pytest.mark.parametrize("name", CHANGES)
def test_a_preset_changes_only_what_it_says(name):
    assert {key: new for key, (_, new) in differences(RunConfig(), PRESETS[name]()).items()} == CHANGES[name]
    assert PRESETS[name]().name == name
    assert set(PRESETS) == set(CHANGES)
