"""Triton kernel of `draw_spans`. Shape letters: S frames of a window, N slots that are a span or a frame, PIECE slots at a time."""

import triton
import triton.language as tl


@triton.jit
def draw_spans_kernel(
    uniform_ptr, frames_ptr, index_ptr, rank_ptr, S, N, spans, last, WIDTH, SPAN: tl.constexpr, SLOTS: tl.constexpr,
    FRAMES: tl.constexpr, PIECE: tl.constexpr,
):  # fmt: skip
    """Mask, positions of the masked frames and masked frames before each frame of one window. Program axis: windows.

    The slots with the `spans` largest numbers are spans, SPAN frames long but for one of `last` frames; the row is then rolled.
    """
    window = tl.program_id(0).to(tl.int64)
    uniform = uniform_ptr + window * (2 * S + 1)
    frames, index, rank = frames_ptr + window * S, index_ptr + window * WIDTH, rank_ptr + window * S
    f, w = tl.arange(0, FRAMES), tl.arange(0, FRAMES)
    tl.store(frames + f, tl.zeros((FRAMES,), tl.int8), f < S)
    tl.store(index + w, tl.zeros((FRAMES,), tl.int64), w < WIDTH)

    slot = tl.arange(0, SLOTS)
    place = tl.load(uniform + slot, mask=slot < N, other=-1.0)
    above = tl.zeros((SLOTS,), tl.int32)
    for start in range(0, N, PIECE):
        other = start + tl.arange(0, PIECE)
        number = tl.load(uniform + other, mask=other < N, other=-1.0)
        # Of equal numbers the first one counts as the larger.
        first = (number[None, :] == place[:, None]) & (other[None, :] < slot[:, None])
        above += tl.sum(((number[None, :] > place[:, None]) | first).to(tl.int32), 1)
    taken = (above < spans) & (slot < N)

    order = tl.load(uniform + S + slot, mask=slot < spans, other=2.0)
    short = tl.argmin(order, 0)
    number = tl.cumsum(taken.to(tl.int32), 0) - 1
    length = tl.where(taken, tl.where(number == short, last, SPAN), 0)
    shift = (tl.load(uniform + 2 * S) * S).to(tl.int32)
    begin = slot + tl.cumsum(length, 0) - length - number + shift
    # Rows are zeroed, then marked, then read by other threads.
    tl.debug_barrier()
    for offset in range(SPAN):
        tl.store(frames + (begin + offset) % S, tl.full((SLOTS,), 1, tl.int8), taken & (offset < length))
    tl.debug_barrier()
    masked = tl.load(frames + f, mask=f < S, other=0).to(tl.int32)
    before = tl.cumsum(masked, 0) - masked
    tl.store(rank + f, before.to(tl.int64), f < S)
    tl.store(index + before, f.to(tl.int64), masked > 0)
