"""The mLSTM cell in plain PyTorch, chunk by chunk: the path for CPUs, and the yardstick of the kernels.

Within a chunk of L frames all pairs are weighted at once, as in attention; between chunks only the state travels. Time
and memory are linear in the number of frames (Beck et al. 2025, Tiled Flash Linear Attention, section 3).

Shape letters: R directions, B batch, S frames, H heads, E channels of a head, N chunks, L frames of a chunk.
"""

import math

import torch
import torch.nn.functional as F

_NEVER = -1e30
"""Log weight of a frame that is not there. Finite, so that differences of two of them are no NaN."""


def mlstm_cell_chunkwise(q, k, v, igate, fgate, eps=1e-6, chunk=64):
    """Hidden states (R, B, S, H, E), equal to `mlstm_cell_reference`; gates in fp32 at least.

    Args:
        q: Queries (R, B, S, H, E); direction 0 runs forward in time, direction 1 backward.
        k: Keys (R, B, S, H, E).
        v: Values (R or 1, B, S, H, E).
        igate: Log of the input gate (R, B, S, H).
        fgate: Logit of the forget gate (R, B, S, H).
        eps: Added to the stabilised denominator.
        chunk: Frames of a chunk; changes the cost, not the result.
    """
    gate_dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    length = q.shape[2]
    chunk = min(chunk, length)
    pad = -length % chunk
    q, k, v = (_to_chunks(_turn(x), chunk, pad, 0.0) for x in (q, k, v.expand_as(q)))
    log_i = _to_chunks(_turn(igate.to(gate_dtype))[..., None], chunk, pad, _NEVER)[..., 0]
    log_f = _to_chunks(F.logsigmoid(_turn(fgate.to(gate_dtype)))[..., None], chunk, pad, 0.0)[..., 0]
    with torch.autocast(q.device.type, enabled=False):
        h = _chunks(q, k, v, log_i, log_f, eps)
    return _turn(h.permute(0, 1, 3, 4, 2, 5).flatten(2, 3)[:, :, :length])


def _turn(x):
    """The same with direction 1 reversed in time."""
    return x if len(x) == 1 else torch.stack([x[0], x[1].flip(1)])


def _to_chunks(x, chunk, pad, fill):
    """(R, B, S, H, E) -> (R, B, H, N, L, E), padded at the end."""
    x = F.pad(x, (0, 0, 0, 0, 0, pad), value=fill)
    return x.unflatten(2, (-1, chunk)).permute(0, 1, 4, 2, 3, 5)


def _chunks(q, k, v, log_i, log_f, eps):
    """Hidden states of chunked inputs, (R, B, H, N, L, E)."""
    chunk, dim = q.shape[-2:]
    fade = log_f.cumsum(-1)
    write = log_i - fade
    start = _stabilisers(fade[..., -1], write.amax(-1))
    top = torch.maximum(start[..., :-1, None], write.cummax(-1).values)

    causal = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()
    decay = torch.exp((write[..., None, :] - top[..., None]).masked_fill(~causal, _NEVER))
    weight = (q @ k.mT).to(decay.dtype) * decay / math.sqrt(dim)
    read = (weight.to(v.dtype) @ v).to(decay.dtype)
    overlap = weight.sum(-1)
    if q.shape[3] > 1:
        memory, norm = _states(k, v, fade[..., -1:] + write, fade[..., -1], start)
        carried = torch.exp(start[..., :-1, None] - top)[..., 1:, :, None] / math.sqrt(dim)
        past = (q[..., 1:, :, :] @ memory.to(q.dtype)).to(decay.dtype) * carried
        past_overlap = (q[..., 1:, :, :].to(decay.dtype) @ norm)[..., 0] * carried[..., 0]
        read = torch.cat([read[..., :1, :, :], read[..., 1:, :, :] + past], 3)
        overlap = torch.cat([overlap[..., :1, :], overlap[..., 1:, :] + past_overlap], 3)
    denominator = torch.maximum(overlap.abs(), torch.exp(-(fade + top))) + eps
    return (read / denominator[..., None]).to(q.dtype)


def _stabilisers(fade, top_write):
    """m before the first chunk and after each: (..., N + 1) from (..., N). m' = fade + max(m, top_write)."""
    m = [torch.full_like(fade[..., 0], _NEVER)]
    for n in range(fade.shape[-1]):
        m.append(fade[..., n] + torch.maximum(m[-1], top_write[..., n]))
    return torch.stack(m, -1)


def _states(k, v, log_write, fade, m):
    """Memory (..., N - 1, E, E) and normaliser (..., N - 1, E, 1) that chunks 1 to N - 1 start from.

    Both are divided by exp(m). `log_write` (..., N, L) is the log weight of a frame at the end of its chunk.
    """
    written = (k[..., :-1, :, :] * torch.exp(log_write - m[..., 1:, None])[..., :-1, :, None].to(k.dtype)).mT
    keep = torch.exp(fade + m[..., :-1] - m[..., 1:])[..., None, None]
    update = torch.cat([(written @ v[..., :-1, :, :]).to(m.dtype), written.sum(-1, keepdim=True).to(m.dtype)], -1)
    state = [update[..., 0, :, :]]
    for n in range(1, update.shape[3]):
        state.append(keep[..., n, :, :] * state[-1] + update[..., n, :, :])
    state = torch.stack(state, 3)
    return state[..., :-1], state[..., -1:]
