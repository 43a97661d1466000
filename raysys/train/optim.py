"""AdamW with the parameter groups and the schedule of a run."""

import math

import torch
from torch import nn

from raysys.config import OptimConfig

_NO_DECAY = ("igate", "fgate", "codebook", "mask_embedding", "conv1d")


def build_optimizer(model: nn.Module, config: OptimConfig, device: torch.device) -> torch.optim.AdamW:
    """Returns fused AdamW; weight decay spares norms, biases, gates and the codebook (Loshchilov & Hutter 2019).

    Learning rates are tensors, so that a schedule changes them without a recompilation or a new CUDA graph.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and not any(word in name for word in _NO_DECAY)
            # A group of few parameters takes a GPU as long as a large one, so the quantizer has its own only where it must.
            apart = config.quantizer_lr is not None and name.startswith("quantizer.")
            groups.setdefault((apart, decays), []).append(parameter)
    parameter_groups = [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "lr": torch.tensor(0.0, device=device),
            "peak_lr": config.quantizer_lr if apart else config.lr,
        }
        for (apart, decays), parameters in groups.items()
    ]
    return torch.optim.AdamW(parameter_groups, betas=config.betas, fused=True, capturable=device.type == "cuda")


def lr_factor(progress: float, warmup: float) -> float:
    """Returns the learning rate over its peak: linear warm-up, then a cosine to zero.

    Args:
        progress: fraction of the full budget that is done, in [0, 1].
        warmup: fraction of the budget that warms up.
    """
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup))))


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"].fill_(group["peak_lr"] * factor)


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

    def step(self, optimizer: torch.optim.Optimizer, norm: torch.Tensor, clip: float) -> None:
        """Takes the optimiser step, the gradient clipped to the norm `clip`, unless `norm` (0-dim) is not finite or a spike."""
        bad = ~torch.isfinite(norm) | ((self.mean_norm > 0) & (norm > self.SPIKE * self.mean_norm))
        optimizer.found_inf = bad.float()
        # Fused AdamW divides gradients by this where it reads them anyway.
        optimizer.grad_scale = ((norm + 1e-6) / clip).clamp_min(1.0).float()
        optimizer.step()
        good = torch.where(bad, self.mean_norm, norm)
        # In place: a CUDA graph that holds this step goes on from what the last one left.
        self.mean_norm.copy_(torch.where(self.mean_norm > 0, torch.lerp(self.mean_norm, good, 0.02), good))
        self.skipped += bad
        self.in_a_row.copy_(torch.where(bad, self.in_a_row + 1, 0.0))

    def state(self) -> dict[str, torch.Tensor]:
        """Returns what a checkpoint keeps of it: the tensors themselves, which the next step changes."""
        return {"mean_norm": self.mean_norm, "skipped": self.skipped, "in_a_row": self.in_a_row}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Restores what `state` returned."""
        for name, value in state.items():
            getattr(self, name).copy_(value)
