"""The mean of the workers' gradients."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Bucket:
    """Parameters whose gradients travel together."""

    def __init__(self, parameters: list[nn.Parameter]):
        self.parameters = parameters
        self.missing = -1  # gradients still to come in this backward pass; below zero when none is awaited
        self._sent: list[nn.Parameter] = []

    def arrived(self, _: Tensor) -> None:
        """Counts one gradient; the last one sends all on their way."""
        self.missing -= 1
        if self.missing == 0:
            self.send()

    def send(self) -> None:
        """Begins to add up, over the workers, the gradients that are there."""
        self.missing = -1
        self._sent = [p for p in self.parameters if p.grad is not None]
        if self._sent:
            self._flat = torch.cat([p.grad.flatten() for p in self._sent])
            self._work = dist.all_reduce(self._flat, async_op=True)

    def receive(self) -> None:
        """Waits, and puts the means in the gradients' place."""
        if self.missing > 0:  # some parameter had no part in the loss
            self.send()
        if self._sent:
            self._work.wait()
            means = self._flat.div_(dist.get_world_size()).split([p.numel() for p in self._sent])
            for parameter, mean in zip(self._sent, means, strict=True):
                parameter.grad = mean.view_as(parameter)


class GradientMean:
    """Averages gradients over the workers while the backward pass still goes on.

    DistributedDataParallel does the same, and copies each gradient into its bucket by a kernel of its own. With the 400 small
    parameters of this model that takes 0.3 of the 26 ms of a step (docs/LOG.md, 2026-11-24), so here one concatenation
    fills a bucket. The workers' parameters have to be equal at the start.

    Args:
        parameters: in the order of the forward pass; their gradients come in about the reverse one.
        bucket_mb: size from which on a bucket is full, in 10^6 bytes.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], bucket_mb: float = 16.0):
        self._buckets, waiting, size = [], [], 0
        for parameter in reversed([p for p in parameters if p.requires_grad]):
            waiting.append(parameter)
            size += parameter.numel() * parameter.element_size()
            if size >= 1e6 * bucket_mb:
                self._buckets.append(_Bucket(waiting))
                waiting, size = [], 0
        if waiting:
            self._buckets.append(_Bucket(waiting))
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(bucket.arrived)

    @contextmanager
    def of_backward(self) -> Iterator[None]:
        """Around the backward pass after which the gradients are to be means; those of others accumulate on each worker."""
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)
        yield
        for bucket in self._buckets:
            bucket.receive()
