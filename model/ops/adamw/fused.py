"""The kernels over many tensors, and the table that tells them where these lie."""

import math

import numpy as np
import torch
from torch import Tensor

from model.ops.adamw.kernels import adamw_kernel, squares_kernel
from model.ops.device import require_gpu

SIZE = 4096
"""Elements of a chunk."""


class ManyTensorsTriton:
    """Norm and AdamW step of all parameters, a launch each; see `many_tensors`.

    PyTorch's fused AdamW does a few tensors a launch, in pieces too large to fill a GPU; of 400 small ones it makes 20 launches.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        first: list[Tensor],
        second: list[Tensor],
        groups: list[int],
        decays: list[float],
    ):
        require_gpu(parameters[0])
        for x in (*parameters, *first, *second):
            if x.dtype != torch.float32 or not x.is_contiguous():
                raise ValueError(
                    f"parameters and moments must be contiguous float32, not {x.dtype} of strides {x.stride()}"
                )
        device = parameters[0].device
        self.parameters = parameters
        counts = np.array([x.numel() for x in parameters])
        chunks = -(-counts // SIZE)
        self._tensor = np.repeat(np.arange(len(counts)), chunks)
        place = np.arange(chunks.sum()) - np.repeat(chunks.cumsum() - chunks, chunks)
        self._offset = 4 * SIZE * place
        rows = [self._rows(parameters), self._rows(parameters), self._rows(first), self._rows(second)]
        self._host = np.stack([*rows, np.minimum(SIZE, counts[self._tensor] - SIZE * place)])
        self._table = torch.empty(self._host.shape, dtype=torch.int64, device=device)
        self._group = torch.tensor(np.array(groups)[self._tensor], device=device)
        self._decay = torch.tensor(np.array(decays)[self._tensor], device=device, dtype=torch.float32)
        self._squares = torch.empty(len(place), device=device)
        self._seen: list[int] = []

    def _rows(self, tensors: list[Tensor]) -> np.ndarray:
        """Addresses of the chunks of tensors."""
        return np.array([x.data_ptr() for x in tensors], dtype=np.int64)[self._tensor] + self._offset

    def locate(self, grads: list[Tensor]) -> None:
        """Notes where the gradients lie, if that has changed.

        While a CUDA graph is recorded nothing can be written: `write_table` has to follow before the first replay.
        """
        assert all(x.dtype == torch.float32 and x.is_contiguous() for x in grads)
        seen = [x.data_ptr() for x in grads]
        if seen != self._seen:
            self._seen = seen
            self._host[1] = self._rows(grads)
            self.aligned = bool((self._host[:4] % 16 == 0).all())
            if not (self._table.is_cuda and torch.cuda.is_current_stream_capturing()):
                self.write_table()

    def write_table(self) -> None:
        """Copies the table to the device."""
        self._table.copy_(torch.from_numpy(self._host))

    def norm(self) -> Tensor:
        """Returns the norm of all gradients together, 0-dim."""
        num = len(self._squares)
        squares_kernel[(num,)](self._table, self._squares, num, SIZE=SIZE, ALIGNED=self.aligned)
        return self._squares.sum().sqrt()

    def step(
        self, lrs: Tensor, count: Tensor, scale: Tensor, skip: Tensor, betas: tuple[float, float], eps: float
    ) -> None:
        """Takes one step in place; see `many_tensors`."""
        num = len(self._squares)
        adamw_kernel[(num,)](
            self._table, self._decay, lrs[self._group], count, scale, skip, num, beta1=betas[0], beta2=betas[1],
            log_beta1=math.log(betas[0]), log_beta2=math.log(betas[1]), eps=eps, SIZE=SIZE, ALIGNED=self.aligned,
        )  # fmt: skip
