"""How work is divided among the programs of a launch; changes the speed and the order of sums, not what is summed."""

from dataclasses import dataclass

import torch
import triton


@dataclass(frozen=True, slots=True)
class PieceLaunch:
    """A program holds a tile of frames and meets pieces of something else one after the other."""

    frames: int
    """Of a program's tile."""
    piece: int
    """Hidden channels, or other frames, that it meets at a time."""
    warps: int
    stages: int


def runs_of_tiles(num_tiles: int, wanted: int) -> tuple[int, int]:
    """Returns the tiles that each program does, and the programs, for `num_tiles` tiles and about `wanted` programs."""
    tiles = triton.cdiv(num_tiles, max(1, wanted))
    return tiles, triton.cdiv(num_tiles, tiles)


def settings(warps: int, stages: int, registers: int | None = None) -> dict[str, int]:
    """Returns Triton's names for them; `registers` is the most that a thread may use, None no limit."""
    return {"num_warps": warps, "num_stages": stages} | ({"maxnreg": registers} if registers else {})


def with_dense_rows(x: torch.Tensor) -> torch.Tensor:
    """Returns x (B, S, I), which may be a slice of a wider tensor's channels, dense but for one stride of all rows."""
    return x if x.stride(-1) == 1 and x.stride(0) == x.shape[1] * x.stride(1) else x.contiguous()
