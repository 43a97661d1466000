"""Fine-tuning as a task of the training loop: a network of `raysys.networks` on labelled windows."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.labels import Labels, event_targets
from model.preprocess import valid_samples
from raysys.config import RunConfig
from raysys.config_finetuning import SEISBENCH_NETWORKS
from raysys.data.fixed_windows import FixedWindows
from raysys.data.labels import TraceLabels
from raysys.data.stream import Batch, Worker
from raysys.evaluate.dev_scores import PickReading, class_scores, event_auc, frame_scores, pick_scores
from raysys.networks import begin_from, build_network, load_teacher
from raysys.train.augment import augment
from raysys.train.data import TrainingData
from raysys.train.left_out import dev_groups
from raysys.train.step import Losses, autocast

BATCH = 128
"""Windows validated at once."""
FRAME_SAMPLES = 10
"""Samples of which a detector's score looks at one."""
PRETRAINED_LR, SCRATCH_LR = 0.15, 0.5
"""Defaults of `finetune.backbone_lr`."""


class Finetuning:
    """Supervised learning of onsets, events or classes (see `raysys.train.task.Task`)."""

    def __init__(self, config: RunConfig, data: TrainingData, worker: Worker, device: torch.device):
        self._config, self._data, self._worker, self._device = config, data, worker, device
        self.model = build_network(config).to(device)
        self._labels = LabelTable(data.get("labels"), device)
        self._dev_labels = LabelTable(data.get("validation_labels"), device)
        self._init, self.flops = config.finetune.init, None
        self._pretrained = self._init not in ("scratch", *SEISBENCH_NETWORKS)
        self._teacher = load_teacher(config.finetune.teacher).to(device) if config.finetune.teacher else None
        self.lrs = {"backbone": config.optim.lr * self._backbone_lr()} if hasattr(self.model, "backbone") else {}

    def _backbone_lr(self) -> float:
        given = self._config.finetune.backbone_lr
        return given if given is not None else PRETRAINED_LR if self._pretrained else SCRATCH_LR

    def begin(self) -> None:
        if self._pretrained:
            begin_from(self.model, self._init)

    def compile(self) -> bool:
        if hasattr(self.model, "backbone"):
            self.model.backbone.compile_parts()
        return False

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        labels = self._labels.of(batch.trace, batch.start)
        config = self._config
        waveform, keep = augment(batch.waveform, batch.num_valid, labels, config.augment, config.model.highpass_hz)
        if self._teacher is None:
            loss = model.loss(waveform, batch.num_valid, labels, keep)
        else:
            loss = self._taught(model, batch, waveform, keep)
        return loss, {"train/loss": loss}

    def _taught(self, model: nn.Module, batch: Batch, waveform: Tensor, keep: Tensor) -> Tensor:
        """The cross-entropy with what the teacher says of the windows as they were recorded (Hinton et al. 2015)."""
        with torch.no_grad():
            said = self._teacher(batch.waveform, batch.num_valid).float()
        valid = valid_samples(batch.num_valid, waveform.shape[-1])[:, 0]
        return model.soft_loss(waveform, batch.num_valid, said, valid.float(), keep)

    def set_schedule(self, progress: float) -> None:
        pass

    def frozen(self, progress: float) -> frozenset[str]:
        return frozenset({"backbone"} if self._pretrained and progress < self._config.finetune.frozen else ())

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        was_training = self.model.training
        self.model.eval()
        seen = {}
        for group, windows in dev_groups(self._data.get("validation"), self._config.finetune.left_out).items():
            seen |= {name.replace("dev/", f"{group}/"): value for name, value in self._validated(windows).items()}
        self.model.train(was_training)
        return seen, {}

    def _validated(self, windows: FixedWindows) -> dict[str, float]:
        """Loss and scores of windows, equal on all ranks."""
        worker, losses, read = self._worker, [], []
        for part, labels, output in self._outputs(windows.take(slice(worker.rank, None, worker.world))):
            losses.append(self._loss(part, labels) * len(part))
            read.append(self._reading(part, labels, output))
        loss, columns = _gathered(float(sum(losses)), read, len(windows), worker)
        return {"dev/loss": loss / max(1, len(windows))} | self._scores(windows, columns)

    def outputs(self) -> Iterator[Tensor]:
        for _, _, output in self._outputs(self._data.get("validation")):
            yield output

    def _outputs(self, windows: FixedWindows) -> Iterator[tuple[FixedWindows, Labels, Tensor]]:
        """What the network makes of windows, batch by batch, beside their labels."""
        for part in windows.batches(BATCH):
            with autocast(self._config, self._device):
                output = self.model(*self._tensors(part))
            place = (torch.tensor(x, device=self._device) for x in (part.row, part.start))
            yield part, self._dev_labels.of(*place), output.float()

    def _tensors(self, part: FixedWindows) -> tuple[Tensor, Tensor]:
        return tuple(torch.tensor(x, device=self._device) for x in (part.waveform, part.num_valid))

    def _loss(self, part: FixedWindows, labels: Labels) -> float:
        with autocast(self._config, self._device):
            return self.model.loss(*self._tensors(part), labels).item()

    def _reading(self, part: FixedWindows, labels: Labels, output: Tensor) -> dict[str, np.ndarray]:
        """What the scores need of a batch, one row a window."""
        if self._config.task == "classify":
            return {"probability": output.cpu().numpy()}
        num_valid = self._tensors(part)[1]
        inside = torch.arange(output.shape[-1], device=self._device) < num_valid[:, None]
        if self._config.task == "pick":
            sample = torch.where(inside[:, None], output[:, :2], -1).argmax(dim=-1)
            event = torch.where(inside, 1 - output[:, 2], 0).amax(dim=-1)
            return {"sample": sample.cpu().numpy(), "event": event.cpu().numpy()}
        truth, weight = event_targets(labels, num_valid, output.shape[-1])
        frames = [x[..., ::FRAME_SAMPLES] for x in (output[:, 0], truth[:, 0], weight > 0)]
        names = ("frame", "truth", "known")
        event = torch.where(inside, output[:, 0], 0).amax(dim=-1)
        return {name: x.cpu().numpy() for name, x in zip(names, frames, strict=True)} | {"event": event.cpu().numpy()}

    def _scores(self, windows: FixedWindows, columns: dict[str, np.ndarray]) -> dict[str, float]:
        if self._config.task == "pick":
            return pick_scores(windows, PickReading(columns["sample"], columns["event"]))
        if self._config.task == "classify":
            return class_scores(self._data.get("validation_labels").group[windows.row], columns["probability"])
        known = columns["known"]
        score = frame_scores(columns["truth"][known], columns["frame"][known])
        return {"dev/event_auc": event_auc(windows, columns["event"]), "dev/frame_ap": score, "dev/score": score}


class LabelTable:
    """The labels of traces on the device, of which a batch takes those of its windows.

    Args:
        labels: of the traces.
        device: of the batches.
    """

    def __init__(self, labels: TraceLabels, device: torch.device):
        onsets = labels.onsets
        # In float32 a sample of a trace of 46 hours is exact.
        self._onsets = [torch.tensor(x, dtype=torch.float32, device=device) for x in (onsets.p, onsets.s, onsets.other)]
        self._noise, self._group = (torch.tensor(x, device=device) for x in (onsets.noise, labels.group))

    def of(self, trace: Tensor, start: Tensor) -> Labels:
        """Returns the labels of windows, in samples of each window; onsets outside of it are among them.

        Args:
            trace: (B,) numbers of the traces.
            start: (B,) first samples of the windows in them.
        """
        onsets = (onset[trace] - start[:, None] for onset in self._onsets)
        return Labels(*onsets, self._noise[trace], self._group[trace])


def _gathered(loss: float, read: list[dict[str, np.ndarray]], count: int, worker: Worker):
    """The summed loss, and the columns of all windows in their order, the same on all ranks."""
    mine = loss, {name: np.concatenate([one[name] for one in read]) for name in read[0]} if read else {}
    if not (dist.is_available() and dist.is_initialized()):
        return mine
    of_ranks: list = [None] * worker.world
    dist.all_gather_object(of_ranks, mine)
    columns = {}
    for name, first in of_ranks[0][1].items():
        columns[name] = np.empty((count, *first.shape[1:]), first.dtype)
        for rank, (_, part) in enumerate(of_ranks):
            if part:
                columns[name][rank :: worker.world] = part[name]
    return sum(part for part, _ in of_ranks), columns
