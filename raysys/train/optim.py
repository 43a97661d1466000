"""AdamW with the parameter groups and the schedule of a run."""

import math
from collections.abc import Container, Mapping

import torch
from torch import Tensor, nn

from model.ops.adamw import many_tensors
from raysys.config import OptimConfig

_NO_DECAY = ("igate", "fgate", "codebook", "mask_embedding", "conv1d")


class AdamW(torch.optim.AdamW):
    """PyTorch's AdamW, of which norm and step are taken for all parameters at once (model/ops/adamw): on a GPU one launch each.

    All parameters share one count of steps. `found_inf` and `grad_scale`, 0-dim, are those of PyTorch's fused optimisers.
    """

    def __init__(
        self, groups: list[dict], betas: tuple[float, float], device: torch.device, backend: str = "auto"
    ):  # fmt: skip
        super().__init__(groups, betas=betas, fused=True, capturable=device.type == "cuda")
        self._backend = backend
        self._many = None
        self._moments: list[int] = []

    @torch.no_grad()
    def grad_norm(self) -> Tensor:
        """Returns the norm of all gradients together, 0-dim."""
        self._find()
        return self._many.norm()

    @torch.no_grad()
    def step(self) -> None:
        """Takes a step; none where no parameter has a gradient."""
        self._find()
        if self._many is None:
            return
        lrs = torch.stack([group["lr"] for group in self.param_groups])
        group = self.param_groups[0]
        self._many.step(lrs, self._count, self.grad_scale, self.found_inf, group["betas"], group["eps"])
        self._count += 1 - self.found_inf

    def after_recording(self) -> None:
        """Has to be called when a CUDA graph that holds a step has been recorded, before its first replay."""
        self._many.write_table()

    def _find(self) -> None:
        """Finds parameters, gradients and moments in memory; makes moments where there are none."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not parameters:
            self._many, self._moments = None, []
            return
        for parameter in parameters:
            if not self.state[parameter]:
                moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
        first, second = ([self.state[p][name] for p in parameters] for name in ("exp_avg", "exp_avg_sq"))
        moments = [x.data_ptr() for x in (*first, *second)]
        if moments != self._moments:
            self._moments = moments
            self._count = self.state[parameters[0]]["step"]
            for parameter in parameters:
                self.state[parameter]["step"] = self._count
            numbers = {p: number for number, group in enumerate(self.param_groups) for p in group["params"]}
            groups = [numbers[p] for p in parameters]
            decays = [self.param_groups[number]["weight_decay"] for number in groups]
            self._many = many_tensors(parameters, first, second, groups, decays, backend=self._backend)
        self._many.locate([p.grad for p in parameters])


def build_optimizer(
    model: nn.Module, config: OptimConfig, device: torch.device, lrs: Mapping[str, float] | None = None
) -> AdamW:
    """Returns fused AdamW; weight decay spares norms, biases, gates and the codebook (Loshchilov & Hutter 2019).

    Learning rates are tensors, so that a schedule changes them without a recompilation or a new CUDA graph.

    Args:
        model: whose parameters it gets.
        config: peak learning rate, betas and weight decay.
        device: of the parameters.
        lrs: part of the model ("quantizer", "backbone") -> peak learning rate in place of `config.lr`.
    """
    lrs = quantizer_lr(config) if lrs is None else lrs
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and not any(word in name for word in _NO_DECAY)
            part = name.split(".")[0]
            groups.setdefault((part if part in lrs else "", decays), []).append(parameter)
    parameter_groups = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "lr": torch.tensor(0.0, device=device),
            "peak_lr": lrs.get(part, config.lr),
            "part": part,
        }
        for (part, decays), parameters in groups.items()
    ]
    return AdamW(parameter_groups, config.betas, device)


def lr_factor(progress: float, warmup: float) -> float:
    """Returns the learning rate over its peak: linear warm-up, then a cosine to zero.

    Args:
        progress: fraction of the full budget that is done, in [0, 1].
        warmup: fraction of the budget that warms up.
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


def quantizer_lr(config: OptimConfig) -> dict[str, float]:
    """Returns the learning rate of pretraining's quantizer, where it has one of its own."""
    return {} if config.quantizer_lr is None else {"quantizer": config.quantizer_lr}


def set_lr(optimizer: AdamW, factor: float, frozen: Container[str] = ()) -> None:
    """Sets every group to `factor` times its peak, and those of the `frozen` parts of the model to 0."""
    for group in optimizer.param_groups:
        group["lr"].fill_(0.0 if group.get("part") in frozen else group["peak_lr"] * factor)


def _judge(
    norm: torch.Tensor, clip: float, mean_norm: torch.Tensor, skipped: torch.Tensor, in_a_row: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns 1.0 for a step that is not to be taken, else 0.0, and what to divide gradients by; brings the state up to date in place.

    In place, as a CUDA graph that holds this step goes on from what the last one left.
    """
    bad = ~torch.isfinite(norm) | ((mean_norm > 0) & (norm > StepGuard.SPIKE * mean_norm))
    good = torch.where(bad, mean_norm, norm)
    mean_norm.copy_(torch.where(mean_norm > 0, torch.lerp(mean_norm, good, 0.02), good))
    skipped.add_(bad)
    in_a_row.copy_(torch.where(bad, in_a_row + 1, 0.0))
    return bad.float(), ((norm + 1e-6) / clip).clamp_min(1.0).float()


class StepGuard:
    """Decides on the device whether a step is taken: a NaN or a spike is skipped and counted, without a host sync.

    The gradient norm is that of the averaged gradient, so all ranks decide alike.
    """

    SPIKE = 20.0
    """A norm this many times its running mean is a spike."""

    def __init__(self, device: torch.device):
        self.mean_norm = torch.zeros((), device=device)
        self.skipped = torch.zeros((), device=device)
        self.in_a_row = torch.zeros((), device=device)
        # Twenty numbers: a kernel on a GPU, and not one for each of them.
        self._judge = torch.compile(_judge, dynamic=False) if device.type == "cuda" else _judge

    def step(self, optimizer: AdamW, norm: torch.Tensor, clip: float) -> None:
        """Takes the optimiser step, the gradient clipped to the norm `clip`, unless `norm` (0-dim) is not finite or a spike."""
        # Fused AdamW divides gradients by the scale where it reads them anyway.
        optimizer.found_inf, optimizer.grad_scale = self._judge(norm, clip, *self.state().values())
        optimizer.step()

    def state(self) -> dict[str, torch.Tensor]:
        """Returns what a checkpoint keeps of it: the tensors themselves, which the next step changes."""
        return {"mean_norm": self.mean_norm, "skipped": self.skipped, "in_a_row": self.in_a_row}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what `state` returned."""
        for name, value in state.items():
            getattr(self, name).copy_(value)
