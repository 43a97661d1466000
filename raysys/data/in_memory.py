"""Traces in memory, in Ray's object store: read once, cropped by every process of a node from the same copy."""

import dataclasses
import logging
from dataclasses import dataclass, field

import numpy as np
import ray

from raysys.data.windows import Traces, whole_traces

log = logging.getLogger(__name__)

MAX_STORE_FRACTION = 0.4
"""Of the object store of the smallest node, which the traces may take."""
_PART_BYTES = 64 << 20
"""What one task reads."""


@dataclass
class InMemorySamples:
    """All samples of some traces at 100 Hz, each (3, samples) float32 in ZNE order, one after the other.

    Attributes:
        parts: flat arrays in the object store; one that is lost with its node is read again.
        part: of each trace, (n,).
        first: of each trace, its first sample in its part, (n,).
        lengths: samples of each component, (n,).
    """

    parts: list[ray.ObjectRef]
    part: np.ndarray
    first: np.ndarray
    lengths: np.ndarray
    _mapped: dict[int, np.ndarray] = field(default_factory=dict)

    def __reduce__(self):
        # Every process maps the parts for itself.
        return InMemorySamples, (self.parts, self.part, self.first, self.lengths)

    def take(self, ids: np.ndarray) -> "InMemorySamples":
        """Returns those of some of the traces."""
        return InMemorySamples(self.parts, self.part[ids], self.first[ids], self.lengths[ids])

    def crop(self, ids: np.ndarray, starts: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns what `raysys.data.windows.read_windows` reads, bit for bit."""
        out = np.zeros((len(ids), 3, window), np.float32)
        valid = np.clip(self.lengths[ids] - starts, 0, window).astype(np.int32)
        rows = zip(ids.tolist(), np.asarray(starts).tolist(), valid.tolist(), out, strict=True)
        for trace, start, count, row in rows:
            row[:, :count] = self._trace(trace)[:, start : start + count]
        return out, valid

    def _trace(self, trace: int) -> np.ndarray:
        number, first, length = int(self.part[trace]), int(self.first[trace]), int(self.lengths[trace])
        if number not in self._mapped:
            self._mapped[number] = ray.get(self.parts[number])
        return self._mapped[number][first : first + 3 * length].reshape(3, length)


def load_into_memory(traces: Traces) -> Traces:
    """Returns traces whose windows come out of the object store, or the same ones where they do not fit into it.

    Raises:
        OSError: a file is gone, is not the one that was indexed, or cannot be read.
    """
    lengths = traces.output_samples(np.arange(len(traces)))
    gib, room = 12 * int(lengths.sum()) / 2**30, MAX_STORE_FRACTION * _smallest_store() / 2**30
    if gib > room:
        log.warning(
            "training traces: %.2f GiB are more than %.0f %% of a node's object store (%.2f GiB), so every trial reads its "
            "windows from storage: raise the nodes' --object-store-memory, or put shards (jobs.prepare) on their disks",
            gib, 100 * MAX_STORE_FRACTION, room,
        )  # fmt: skip
        return traces
    ends = np.cumsum(3 * lengths)
    part = (ends - 1) // (_PART_BYTES // 4)
    bounds = np.flatnonzero(np.diff(part, prepend=-1, append=part[-1] + 1))  # first trace of each part, and the end
    part = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    begin = ends - 3 * lengths
    parts = _read_all(ray.put(traces), bounds)
    log.info("training traces: read once, %.2f GiB in the object store for all trials", gib)
    return dataclasses.replace(traces, in_memory=InMemorySamples(parts, part, begin - begin[bounds[part]], lengths))


def _read_all(traces_ref, bounds: np.ndarray) -> list[ray.ObjectRef]:
    """The parts; as many are read at a time as the cluster has CPUs."""
    parts, running = [], []
    most = max(1, int(ray.cluster_resources().get("CPU", 1)))
    try:
        for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            if len(running) >= most:
                [done], running = ray.wait(running, num_returns=1)
                ray.get(done)
            part, done = _read_part.remote(traces_ref, first, last)
            parts.append(part)
            running.append(done)
        ray.get(running)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, OSError):
            raise OSError(str(error.cause)) from None
        raise
    return parts


# It takes no CPU: a part that is lost while trials hold all CPUs can be read again.
@ray.remote(num_cpus=0, num_returns=2, scheduling_strategy="SPREAD")
def _read_part(traces: Traces, first: int, last: int) -> tuple[np.ndarray, None]:
    """The samples, and a small object that tells the driver of errors without moving the samples to it."""
    out = np.zeros(3 * int(traces.output_samples(np.arange(first, last)).sum()), np.float32)
    at = 0
    for _, waveform in whole_traces(traces, first, last):
        out[at : at + waveform.size] = waveform.reshape(-1)
        at += waveform.size
    return out, None


def _smallest_store() -> float:
    """Bytes of the smallest object store of the cluster's nodes."""
    return min(node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes() if node["Alive"])
