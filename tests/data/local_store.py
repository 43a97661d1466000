"""Ray's object store and Ray Data's splitting of blocks, inside the process of the test."""

from typing import Any

import ray


class LocalStore:
    """What reading asks of the module `ray`; tasks run at once."""

    exceptions = ray.exceptions

    def __init__(self):
        self._objects: list[Any] = []

    def put(self, value: Any) -> bytes:
        self._objects.append(value)
        return len(self._objects).to_bytes(4)

    def get(self, reference: bytes | list[bytes]) -> Any:
        if isinstance(reference, list):
            return [self.get(one) for one in reference]
        return self._objects[int.from_bytes(reference) - 1]

    def wait(self, references: list[bytes], num_returns: int) -> tuple[list[bytes], list[bytes]]:
        return references[:num_returns], references[num_returns:]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}


class LocalDataset:
    """The blocks of a source in order, handed to the workers round-robin."""

    def __init__(self, source, config):
        self._blocks = [block for task in source.get_read_tasks(1) for block in task()]

    def iterator(self) -> "_Iterator":
        return _Iterator(self._blocks)

    def streaming_split(self, world: int, equal: bool) -> list["_Iterator"]:
        return [_Iterator(self._blocks[rank::world]) for rank in range(world)]


class _Iterator:
    def __init__(self, blocks: list):
        self._blocks = blocks

    def iter_torch_batches(self, *, collate_fn, **_):
        return map(collate_fn, self._blocks)
