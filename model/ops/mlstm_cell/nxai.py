"""NX-AI's own kernels behind the same face, for comparison. The only file that imports mlstm_kernels."""

import torch
import torch.nn.functional as F


def mlstm_cell_nxai(q, k, v, igate, fgate, eps=1e-6):
    """Hidden states (R, B, S, H, E) by mlstm_kernels' chunkwise--triton_xl_chunk, one call a direction.

    Its backward pass leaves out the gradient of the normaliser. Gates stay in fp32: in bf16 they crash Triton's
    compiler. Lengths are padded to a multiple of the chunk, 16 to 128 frames.

    Raises:
        ValueError: the tensors are not on a CUDA device.
    """
    if not q.is_cuda:
        raise ValueError(
            f"backend='xlstm' runs on CUDA only, the tensors are on {q.device}: use 'torch' or 'reference'"
        )
    from mlstm_kernels.torch.chunkwise.triton_xl_chunk import mlstm_chunkwise__xl_chunk

    length = q.shape[2]
    chunk = min(128, max(16, 1 << (length - 1).bit_length()))
    v = v.expand_as(q)
    out = []
    for r in range(len(q)):
        inputs = [x[r] if r == 0 else x[r].flip(1) for x in (q, k, v, igate.float(), fgate.float())]
        pad = -length % chunk
        q_r, k_r, v_r = (F.pad(x, (0, 0, 0, 0, 0, pad)).transpose(1, 2).contiguous() for x in inputs[:3])
        i_r, f_r = (F.pad(x, (0, 0, 0, pad)).transpose(1, 2).contiguous() for x in inputs[3:])
        with torch.autocast(q.device.type, enabled=False):
            h = mlstm_chunkwise__xl_chunk(q_r, k_r, v_r, i_r, f_r, eps=eps, chunk_size=chunk)
        h = h.transpose(1, 2)[:, :length]
        out.append(h if r == 0 else h.flip(1))
    return torch.stack(out)
