"""The mean of the workers' gradients."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from model.collective import begin_mean


class GradientMean:
    """Averages gradients over the workers while the backward pass still goes on.

    DistributedDataParallel does the same, and copies each gradient into its bucket by a kernel of its own. With the 400 small
    parameters of this model that takes 0.3 of the 26 ms of a step (docs/dead_ends.md), so here one copy of many
    tensors fills a bucket. The workers' parameters have to be equal at the start.

    Args:
        parameters: in the order of the forward pass; their gradients come in about the reverse one.
        bucket_mb: size from which on a bucket is full, in 10^6 bytes.
        last_mb: most that the last one holds. No backward pass is left beside which it could travel.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], bucket_mb: float = 40.0, last_mb: float = 1.0):
        self._buckets = _cut([p for p in parameters if p.requires_grad], 1e6 * bucket_mb, 1e6 * last_mb)
        for number, bucket in enumerate(self._buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(partial(self._arrived, number))
        self._missing: list[int] = []  # gradients still to come, of each bucket; empty while none are awaited
        self._sent: list[Callable[[], None]] = []  # what ends the sums that go on, of each bucket

    @contextmanager
    def of_backward(self) -> Iterator[None]:
        """Around the backward pass after which the gradients are to be means; those of others accumulate on each worker."""
        self._missing = [len(bucket) for bucket in self._buckets]
        yield
        self._missing = [0] * len(self._buckets)  # what has not come by now had no part in the loss
        self._send()
        for end in self._sent:
            end()
        self._missing, self._sent = [], []

    def _arrived(self, number: int, _: Tensor) -> None:
        if self._missing:
            self._missing[number] -= 1
            self._send()

    def _send(self) -> None:
        """Begins to add up the buckets that are complete, in the one order in which all workers do."""
        while len(self._sent) < len(self._buckets) and self._missing[len(self._sent)] == 0:
            parameters = [p for p in self._buckets[len(self._sent)] if p.grad is not None]
            self._sent.append(_begin_mean(parameters) if parameters else lambda: None)


def _begin_mean(parameters: list[nn.Parameter]) -> Callable[[], None]:
    """Begins to average a bucket's gradients; returns what makes the parameters' gradients their means."""
    flat = parameters[0].grad.new_empty(sum(p.numel() for p in parameters))
    torch._foreach_copy_(_places(flat, parameters), [p.grad for p in parameters])
    wait = begin_mean(flat)

    def end() -> None:
        wait()
        for parameter, mean in zip(parameters, _places(flat, parameters), strict=True):
            parameter.grad = mean

    return end


def _cut(parameters: list[nn.Parameter], full: float, last: float) -> list[list[nn.Parameter]]:
    """Returns the parameters, the last one first, in buckets of at least `full` bytes but for the last two, and of at most `last` the last.

    In a bucket the large ones come first: PyTorch copies 64 tensors a launch, which lasts as long as its largest takes.
    """
    buckets: list[list[nn.Parameter]] = [[]]
    sizes = [p.numel() * p.element_size() for p in parameters]
    left, size = sum(sizes), 0
    for parameter, more in zip(reversed(parameters), reversed(sizes), strict=True):
        begins_the_last = left <= last < left + size
        if begins_the_last or (size >= full and left > last):
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += more
        left -= more
    return [sorted(bucket, key=Tensor.numel, reverse=True) for bucket in buckets]


def _places(flat: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Returns the parts of a bucket, in the shapes of its parameters."""
    parts = flat.split([p.numel() for p in parameters])
    return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]
