"""Every kind of quantizer through a run: training, validation, checkpoint, resume, two ranks, windows without signal."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from model.quantizers import nearest
from model.quantizers.nearest import NearestQuantizer
from tests.train.local import local_trainer, made_batch

KINDS = {
    "gumbel": {},
    "ema": {},
    "residual": {},
    "fsq": {"model.quantizer.fsq_levels": (4, 4)},
    "hierarchical": {},
    "none": {},
}
NEGATIVES = ("queue", "pool")
"""Beside the kinds: those of the batch's and of the run's memory."""


def of_kind(config, kind: str, **more):
    """Returns the configuration with a quantizer of a kind."""
    return config.override({"model.quantizer.kind": kind, **KINDS[kind], **more})


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Of a checkpoint."""
    return load_file(folder / f"step{step:09d}" / "model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_validates_and_goes_on_from_a_checkpoint_as_if_nothing_had_been(kind, smoke, data, tmp_path):
    config = of_kind(smoke, kind)
    metrics = local_trainer(config, data, tmp_path / "whole").run()
    assert metrics["val/loss"] > 0
    assert (metrics["codebook/hard_perplexity"] > 0) == (kind != "none")
    local_trainer(config, data, tmp_path / "parts").run()
    (tmp_path / "parts" / "step000000008").rename(tmp_path / "gone")
    assert local_trainer(config, data, tmp_path / "parts").run()["step"] == 8
    whole, parts = (weights(tmp_path / name, 8) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_any_signal_does_no_harm(kind, smoke, data, tmp_path):
    trainer = local_trainer(of_kind(smoke, kind), data, tmp_path)
    trainer.model.train()
    batch = made_batch(4, smoke.model.window_samples)
    dead = batch._replace(waveform=torch.zeros_like(batch.waveform))
    for one in (batch, dead, batch):
        scalars = trainer._take_step([one])
        assert scalars["train/loss"].isfinite()
    assert trainer.guard.skipped == 0
    assert all(parameter.isfinite().all() for parameter in trainer.model.state_dict().values())


def _rank(index: int, config, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=2)
    from raysys.train.data import prepare_training_data

    trainer = local_trainer(config, prepare_training_data(config), Path(folder) / f"run{index}", rank=index, world=2)
    metrics = trainer.run()
    torch.save((trainer.model.state_dict(), metrics["val/loss"]), f"{folder}/{index}")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, *NEGATIVES])
def test_two_ranks_hold_one_model(kind, smoke, tmp_path):
    """Weights, codebooks and memory of negatives are the same on both, though each saw its own windows."""
    if kind in NEGATIVES:
        config = smoke.override({"loss.negatives": kind, "loss.queue_frames": 64, "loss.pool_frames": 16})
    else:
        config = of_kind(smoke, kind)
    mp.spawn(_rank, (config.override({"train.num_workers": 2}), str(tmp_path)), 2)
    (first, loss), (second, other) = (torch.load(tmp_path / str(index)) for index in range(2))
    assert loss == other
    for name in first:
        torch.testing.assert_close(second[name], first[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("world", [1, 4])
def test_codes_are_revived_by_their_use_on_all_ranks(world, monkeypatch, smoke):
    """The library counts the frames of all ranks; so must what a code is compared with."""
    config = of_kind(smoke, "ema").model
    quantizer = NearestQuantizer(config.encoder.width, config.target_dim, config.quantizer)
    monkeypatch.setattr(nearest, "num_workers", lambda: world)
    book = quantizer.codebooks[0]
    quantizer._set_revival(book, 40)
    frames = 40 * world / config.quantizer.num_codes
    assert book._codebook.threshold_ema_dead_code == pytest.approx(config.quantizer.revive_below * frames)
    assert book._codebook.reset_cluster_size == pytest.approx(frames)
