"""Pretraining as a task of the training loop."""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from model.pretrain import PretrainModel
from raysys.config import RunConfig
from raysys.data.stream import Batch, Worker
from raysys.train.data import TrainingData
from raysys.train.flops import training_flops
from raysys.train.optim import quantizer_lr
from raysys.train.step import Losses, contrastive_losses
from raysys.train.validate import validate

log = logging.getLogger(__name__)


class Pretraining:
    """Contrastive prediction of hidden frames (see `raysys.train.task.Task`)."""

    def __init__(self, config: RunConfig, data: TrainingData, worker: Worker, device: torch.device):
        self._config, self._data, self._worker, self._device = config, data, worker, device
        self.model = PretrainModel(config.model, config.mask, config.loss).to(device)
        self.lrs = quantizer_lr(config.optim)
        self.flops = training_flops(config)

    def begin(self) -> None:
        pass

    def compile(self) -> bool:
        self.model.compile_parts()
        records = not self.model.quantizer.waits_for_host
        if not records:
            kind = self._config.model.quantizer.kind
            log.info("quantizer.kind=%s waits for the host: steps are compiled, not recorded", kind)
        return records

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        return contrastive_losses(model, batch)

    def set_schedule(self, progress: float) -> None:
        self.model.set_schedule(progress)

    def frozen(self, progress: float) -> frozenset[str]:
        return frozenset()

    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        worker = self._worker
        seen = validate(self.model, self._config, self._data, worker.rank, worker.world, self._device)
        return seen, {"codebook/usage": seen.pop("counts")}

    def outputs(self) -> Iterator[Tensor]:
        for windows in (self._data.get("probe_fit"), self._data.get("probe_score")):
            for part in windows.batches(32):
                waveform, num_valid = (torch.tensor(x, device=self._device) for x in (part.waveform, part.num_valid))
                yield self.model.features(waveform, num_valid)
