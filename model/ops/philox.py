"""The random bits of all kernels, in plain PyTorch: Philox4x32 (Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3)."""

import torch

KEYS = (0x9E3779B9, 0xBB67AE85)
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
MASK = 0xFFFFFFFF


def philox(seed, c0, c1, rounds=10):
    """The four outputs for counters (c0, c1, 0, 0), numbers of 32 bits held in int64."""
    c2 = c3 = torch.zeros_like(c0)
    k0, k1 = seed & MASK, (seed >> 32) & MASK
    for _ in range(rounds):
        (high0, low0), (high2, low2) = _multiply(MULTIPLIERS[0], c0), _multiply(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high2 ^ c1 ^ k0, low2, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEYS[0]) & MASK, (k1 + KEYS[1]) & MASK
    return c0, c1, c2, c3


def _multiply(a, b):
    """Upper and lower 32 bits of the product of a number and a tensor of 32 bits."""
    middle = (a >> 16) * b + ((a & 0xFFFF) * b >> 16)
    return middle >> 16, (a * b) & MASK
