"""Validation: fixed windows, fixed masks, hard codes, the linear probe. The same numbers at any world size."""

import numpy as np
import torch
import torch.distributed as dist

from model.pretrain import PretrainModel
from model.quantizers.interface import perplexity, used_fraction
from raysys.config import RunConfig
from raysys.data.fixed_windows import FixedWindows
from raysys.evaluate.probe import probe_scores
from raysys.train.data import TrainingData
from raysys.train.step import autocast

BATCH = 128
"""Windows at once; of the metrics only the losses depend on it, a little."""


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # its shapes would be compiled again, for a few batches each
def validate(model: PretrainModel, config: RunConfig, data: TrainingData, rank: int, world: int, device: torch.device):
    """Returns val/*, codebook/* and probe/* metrics, and "counts" (G, V), equal on all ranks.

    It computes in the precision of training, by the same kernels. Perplexity and used fraction are those of the hard
    codes of the whole validation set; a health gate can rely on them. Losses are those of the run's own task and compare
    only with themselves; `val/top1_tie` and the probe compare between runs.
    """
    was_training = model.training
    model.eval()
    mine = data.get("validation").take(slice(rank, None, world))
    with autocast(config, device):
        sums, counts = _losses(model, mine, rank, world, device)
    metrics = {
        name: (sums[i] / sums[-1]).item() for i, name in enumerate(("val/loss", "val/contrastive", "val/accuracy"))
    }
    metrics["val/top1_tie"] = (sums[3] / sums[4].clamp_min(1)).item()
    groups = perplexity(counts / counts.sum(dim=-1, keepdim=True).clamp_min(1))
    metrics["codebook/hard_perplexity"] = groups.sum().item()
    metrics |= {f"codebook/hard_perplexity_{g}": value.item() for g, value in enumerate(groups)}
    metrics["codebook/used_fraction"] = used_fraction(counts).item()
    metrics |= probe(model, config, data, rank, world, device)
    if dist.is_available() and dist.is_initialized():
        # Ranks decide by them: they have to agree to the last bit, on whatever processors they computed.
        of_ranks: list = [None] * world
        dist.all_gather_object(of_ranks, metrics)
        metrics = of_ranks[0]
    model.train(was_training)
    return metrics | {"counts": counts}


@torch.no_grad()
def probe(model: PretrainModel, config: RunConfig, data: TrainingData, rank: int, world: int, device: torch.device):
    """Returns the probe/* scores of a model."""

    def encode(waveform, num_valid):
        with autocast(config, device):
            return model.features(waveform.to(device), num_valid.to(device)).float()

    fit, score = (data.get(name).take(slice(rank, None, world)) for name in ("probe_fit", "probe_score"))
    width = config.model.encoder.width + config.model.backbone.width
    center = np.array([config.model.encoder.frame_center(frame) for frame in range(config.model.num_frames)])
    return probe_scores(encode, width, center, fit, score, config.probe, BATCH)


def _losses(model: PretrainModel, mine: FixedWindows, rank: int, world: int, device: torch.device):
    """Sums over all ranks: loss, contrastive and accuracy times windows, tie score, tie frames, windows; code counts."""
    sums = torch.zeros(6, dtype=torch.float64, device=device)
    counts = torch.zeros(model.quantizer.code_shape, dtype=torch.float64, device=device)
    for batch, part in enumerate(mine.batches(BATCH)):
        start = batch * BATCH
        waveform, num_valid = (torch.tensor(x, device=device) for x in (part.waveform, part.num_valid))
        # Masks and negatives follow the window's place in the whole set, not the rank that happens to see it.
        window_id = (torch.arange(start, start + len(part), device=device)) * world + rank
        losses = model(waveform, num_valid, window_id=window_id)
        right, frames = model.top1_tie(waveform, window_id, num_valid)
        n = len(part)
        sums += torch.stack(
            [
                losses.total * n,
                losses.contrastive * n,
                losses.accuracy * n,
                right.sum(),
                frames.sum(),
                sums.new_tensor(n),
            ]
        ).double()
        counts += losses.code_counts
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
        dist.all_reduce(counts)
    return sums, counts
