"""Random numbers of one step: from a generator in training, from the windows' own numbers in validation."""

import torch
from torch import Tensor


class Draws:
    """Random numbers on a device, from `generator` (of that device) or from PyTorch's default one."""

    def __init__(self, device: torch.device, generator: torch.Generator | None = None):
        self.device = device
        self.generator = generator

    def uniform(self, *shape: int) -> Tensor:
        """Returns float32 numbers in [0, 1)."""
        return torch.rand(shape, generator=self.generator, device=self.device)

    def gumbel(self, *shape: int) -> Tensor:
        """Returns standard Gumbel noise, always float32: in bfloat16 its variance and upper tail are wrong."""
        return -torch.empty(shape, device=self.device).exponential_(generator=self.generator).log()

    def seed(self) -> Tensor | None:
        """Returns a number (1,) int64 for kernels that make their own noise; None where noise is a function of the window."""
        return torch.randint(2**62, (1,), generator=self.generator, device=self.device)


class KeyedDraws(Draws):
    """Random numbers that are a function of (seed, window, position) alone.

    A validation window so meets the same mask and the same negatives in every batch, on every rank and device.
    The first dimension of every shape is the batch.
    """

    def __init__(self, window_id: Tensor, seed: int = 0):
        super().__init__(window_id.device)
        self.key = _hash(_hash(window_id.long() & _MASK) ^ seed)
        self.num_calls = 0

    def uniform(self, *shape: int) -> Tensor:
        """Returns float32 numbers in [0, 1); `shape[0]` is the number of windows."""
        self.num_calls += 1
        key = _hash(self.key + self.num_calls)
        count = torch.Size(shape[1:]).numel()
        bits = _hash(key[:, None] ^ _hash(torch.arange(count, device=self.device)))
        return ((bits >> 8).float() / 2**24).view(shape)

    def gumbel(self, *shape: int) -> Tensor:
        """Returns standard Gumbel noise in float32; `shape[0]` is the number of windows."""
        return -(-self.uniform(*shape).clamp_min(2**-25).log()).log()

    def seed(self) -> None:
        """Returns None: noise made of one number would depend on a window's place in the batch."""
        return None


_MASK = 0xFFFFFFFF


def _hash(x: Tensor) -> Tensor:
    """Returns the bits of 32-bit integers, held in int64, well mixed (two rounds of xor-shift and multiply)."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)
