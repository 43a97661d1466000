"""The law: PyTorch's norm of all gradients and its fused AdamW, a call for each learning rate and weight decay."""

from collections import defaultdict

from torch import Tensor, nn
from torch.optim.adamw import adamw


class ManyTensorsReference:
    """Norm and step of all parameters by PyTorch; see `many_tensors`."""

    def __init__(
        self, parameters: list[Tensor], first: list[Tensor], second: list[Tensor], groups: list[int], decays: list[float]
    ):  # fmt: skip
        self._parameters, self._first, self._second = parameters, first, second
        self._grads: list[Tensor] = []
        self._alike: dict[tuple[int, float], list[int]] = defaultdict(list)
        for number, settings in enumerate(zip(groups, decays, strict=True)):
            self._alike[settings].append(number)

    def locate(self, grads: list[Tensor]) -> None:
        """Notes the gradients."""
        self._grads = grads

    def write_table(self) -> None:
        """Does nothing: there is no table of addresses."""

    def norm(self) -> Tensor:
        """Returns the norm of all gradients together, 0-dim."""
        return nn.utils.get_total_norm(self._grads, foreach=True)

    def step(
        self, lrs: Tensor, count: Tensor, scale: Tensor, skip: Tensor, betas: tuple[float, float], eps: float
    ) -> None:
        """Takes one step in place; see `many_tensors`."""
        for (group, decay), numbers in self._alike.items():
            tensors = ([x[n] for n in numbers] for x in (self._parameters, self._grads, self._first, self._second))
            # PyTorch raises the count of every parameter.
            counts = [count.clone() for _ in numbers]
            adamw(
                *tensors, [], counts, fused=True, grad_scale=scale, found_inf=skip, amsgrad=False, beta1=betas[0],
                beta2=betas[1], lr=lrs[group], weight_decay=decay, eps=eps, maximize=False,
            )  # fmt: skip
        # Gradients that are kept would lie beside those of the next step.
        self._grads = []
