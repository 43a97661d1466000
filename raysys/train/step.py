"""One optimiser step of one worker, and the same step recorded as a CUDA graph."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from model.pretrain import PretrainModel
from raysys.config import RunConfig
from raysys.data.stream import Batch
from raysys.train.gradients import GradientMean
from raysys.train.optim import AdamW, StepGuard

Losses = tuple[Tensor, dict[str, Tensor]]
"""What is minimised, and the numbers that are logged; 0-dim."""


def contrastive_losses(model: PretrainModel, batch: Batch) -> Losses:
    """Returns the loss of pretraining, and its parts."""
    losses = model(batch.waveform, batch.num_valid)
    return losses.total, {
        "train/loss": losses.total,
        "train/contrastive": losses.contrastive,
        "train/diversity": losses.diversity,
        "train/accuracy": losses.accuracy,
        "train/mask_ratio": losses.mask_ratio,
        "train/temperature": losses.temperature,
        "codebook/perplexity": losses.perplexity.sum(),
        "codebook/batch_used_fraction": losses.used_fraction,
        **{f"codebook/perplexity_{g}": value for g, value in enumerate(losses.perplexity)},
    }


class TrainStep:
    """Forward and backward pass of every micro-batch, clipping, and the guarded step of the optimiser.

    Args:
        model: that is trained.
        optimizer: of its parameters.
        guard: decides whether the step is taken.
        config: of the run.
        device: of this worker.
        world: number of workers.
        losses: of the model and a batch.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: AdamW,
        guard: StepGuard,
        config: RunConfig,
        device: torch.device,
        world: int = 1,
        losses: Callable[[nn.Module, Batch], Losses] = contrastive_losses,
    ):
        self._losses = losses
        self.model, self.optimizer, self.guard, self.config, self.device = model, optimizer, guard, config, device
        self._mean = GradientMean(model.parameters()) if world > 1 else None

    def __call__(self, batches: list[Batch]) -> dict[str, Tensor]:
        """Returns the scalars of the last micro-batch, as 0-dim tensors on the device."""
        for micro, batch in enumerate(batches, start=1):
            with autocast(self.config, self.device):
                loss, scalars = self._losses(self.model, batch)
            # Outside: autocast is for the forward pass, and would round products of the backward pass that are in float32.
            with self._mean.of_backward() if self._mean and micro == len(batches) else nullcontext():
                (loss / len(batches)).backward()
        norm = self.optimizer.grad_norm()
        self.guard.step(self.optimizer, norm, self.config.optim.clip)
        self.optimizer.zero_grad(set_to_none=True)
        return scalars | {"train/grad_norm": norm}


class CapturedStep:
    """A `TrainStep` that the host launches as one CUDA graph in place of thousands of kernels.

    The first steps run as they are, which builds whatever PyTorch builds on the way; the next one is recorded, and from
    then on replayed. The caller's current stream must not be the default one. Random numbers follow `torch.manual_seed`
    as in any other step; learning rate, temperatures and other schedules are tensors, and are read at every replay.
    """

    WARM_UP = 3
    """Steps before the recording, in which everything compiles."""

    def __init__(self, step: TrainStep):
        self._step = step
        self._count = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batches: list[Batch]) -> dict[str, Tensor]:
        """Returns what `TrainStep` returns; the batches of all calls have the same shapes."""
        self._count += 1
        if self._count <= self.WARM_UP:
            return self._step(batches)
        if self._graph is None:
            self._record(batches)
        for static, batch in zip(self._batches, batches, strict=True):
            static.waveform.copy_(batch.waveform)
            static.num_valid.copy_(batch.num_valid)
        self._graph.replay()
        return dict(zip(self._names, self._values.clone().unbind(), strict=True))

    def _record(self, batches: list[Batch]) -> None:
        self._batches = [Batch(*(tensor.clone() for tensor in batch)) for batch in batches]
        self._graph = torch.cuda.CUDAGraph()
        # "thread_local": other threads pin memory for the next batches and watch NCCL meanwhile.
        with torch.cuda.graph(self._graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
            scalars = self._step(self._batches)
            self._names = list(scalars)
            self._values = torch.stack([value.detach().float() for value in scalars.values()])
        self._step.optimizer.after_recording()


def autocast(config: RunConfig, device: torch.device):
    """Returns the autocast context of the run's precision."""
    bf16 = config.train.precision == "bf16" or (config.train.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)
