"""The law: the mLSTM cell as a recurrence, one time step after the other.

Shape letters: R directions, B batch, S frames, H heads, E channels of a head.
"""

import math

import torch
import torch.nn.functional as F


def recurrence(q, k, v, igate, fgate, eps=1e-6):
    """Hidden states (B, S, H, E) of one direction, forward in time (Beck et al. 2024, xLSTM, eqs. 19 to 27).

    The memory C is a matrix that the input gate writes to and the forget gate fades:

        C_t = f_t C_{t-1} + i_t k_t v_t^T        n_t = f_t n_{t-1} + i_t k_t       f = sigmoid, i = exp
        h_t = C_t^T q_t / max(|n_t . q_t|, 1)    with k scaled by 1/sqrt(E)

    exp(igate) overflows, so C and n are kept divided by exp(m_t), where m_t is the log of the largest weight that any
    past frame has now. It cancels, but for eps, which is added to the divided denominator.

    Args:
        q: Queries (B, S, H, E).
        k: Keys (B, S, H, E).
        v: Values (B, S, H, E).
        igate: Log of the input gate (B, S, H).
        fgate: Logit of the forget gate (B, S, H).
        eps: Added to the denominator.
    """
    batch, length, heads, dim = q.shape
    k = k / math.sqrt(dim)
    log_f = F.logsigmoid(fgate)
    memory = q.new_zeros(batch, heads, dim, dim)
    norm = q.new_zeros(batch, heads, dim)
    m = igate.new_full((batch, heads), -math.inf)
    out = []
    for t in range(length):
        m_new = torch.maximum(log_f[:, t] + m, igate[:, t])
        keep = torch.exp(log_f[:, t] + m - m_new)[..., None]
        write = torch.exp(igate[:, t] - m_new)[..., None]
        memory = keep[..., None] * memory + (write * k[:, t])[..., None] * v[:, t, :, None, :]
        norm = keep * norm + write * k[:, t]
        m = m_new
        read = torch.einsum("bhe,bhef->bhf", q[:, t], memory)
        overlap = (norm * q[:, t]).sum(-1)
        out.append(read / (torch.maximum(overlap.abs(), torch.exp(-m)) + eps)[..., None])
    return torch.stack(out, 1)


def mlstm_cell_reference(q, k, v, igate, fgate, eps=1e-6):
    """Hidden states (R, B, S, H, E): direction 0 runs forward in time, direction 1 backward. See `recurrence`."""
    v = v.expand_as(q)
    out = [recurrence(q[0], k[0], v[0], igate[0], fgate[0], eps)]
    if len(q) == 2:
        flipped = [x[1].flip(1) for x in (q, k, v, igate, fgate)]
        out.append(recurrence(*flipped, eps).flip(1))
    return torch.stack(out)
