"""The kernels of `sample_codes` as PyTorch operators.

Shape letters: N frames, G groups, V codes of a group, E channels of a code.
"""

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from model.ops.device import require_gpu
from model.ops.gumbel_codes.kernels import (
    codebook_grad_kernel,
    count_kernel,
    gumbel_noise_kernel,
    sample_codes_grad_kernel,
    sample_codes_kernel,
)
from model.ops.gumbel_codes.reference import piece_width
from model.ops.launch import runs_of_tiles
from model.ops.partial_sums import sum_parts
from model.ops.precision import sum_dtype, sum_type

MOST_CODES, MOST_CHANNELS = 2048, 512
"""A row of a group is held in registers as a whole."""


@dataclass(frozen=True, slots=True)
class LogitsLaunch:
    """How one kernel is launched; changes the speed, and the order of sums over frames, not the samples."""

    elements: int
    """Of a tile of logits, about."""
    warps: int
    programs: int = 0
    """How many programs there should be, about, where each does several tiles."""


@dataclass(frozen=True, slots=True)
class CodebookLaunch:
    """How the kernel of the codebook's gradient is launched."""

    frames: int
    """Of a tile, where elements have two bytes."""
    codes: int
    channels: int
    """Most of a tile."""
    warps: int
    stages: int
    programs: int


FORWARD = LogitsLaunch(2560, 4, 660)
BACKWARD = LogitsLaunch(2560, 4)
CODEBOOK = CodebookLaunch(64, 64, 128, 4, 3, 264)
COUNT_FRAMES, COUNT_CODES, COUNT_PROGRAMS = 128, 16, 2640
"""Frames and codes of a tile of the counts, and how many programs there should be, about."""


def fits(num_codes: int, width: int) -> bool:
    """Returns whether the kernels do these sizes."""
    return num_codes <= MOST_CODES and width <= MOST_CHANNELS


def _cut(num_codes, elements):
    """Frames of a tile, and the constants that say how its codes are cut into pieces."""
    width = piece_width(num_codes)
    pieces = triton.cdiv(num_codes, width)
    frames = 1 << max(0, (elements // (pieces * width)).bit_length() - 1)
    return {"V": num_codes, "P": pieces, "L": min(frames, 32), "W": width}


def _cut_product(num_codes, width, element_size):
    """Frames, codes and channels of a tile of the codebook's gradient; products are 16 wide at least."""
    return {
        "L": max(16, CODEBOOK.frames * 2 // max(2, element_size)),
        "VP": min(CODEBOOK.codes, max(16, triton.next_power_of_2(num_codes))),
        "EP": min(CODEBOOK.channels, max(16, triton.next_power_of_2(width))),
    }


def gumbel_noise_triton(seed, num_frames, num_groups, num_codes):
    """As `gumbel_noise_reference`, by the code that `sample_codes` runs: the very noise that it adds."""
    require_gpu(seed)
    noise = torch.empty(num_frames, num_groups, num_codes, device=seed.device)
    rows, cut = num_frames * num_groups, _cut(num_codes, FORWARD.elements)
    gumbel_noise_kernel[(triton.cdiv(rows, cut["L"]),)](seed, noise, rows, **cut)
    return noise


@torch.library.custom_op("raysys::sample_codes", mutates_args=())
def sample_codes_forward(
    logits: Tensor, codebook: Tensor, temperature: Tensor, weight: Tensor, seed: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q (N, G, E), ids (N, G), mean probabilities (G, V), and for the gradient norms (2, N, G); inputs are contiguous."""
    require_gpu(logits)
    (num_frames, groups, codes), width = logits.shape, codebook.shape[-1]
    cut = _cut(codes, FORWARD.elements)
    tiles, runs = runs_of_tiles(triton.cdiv(num_frames, cut["L"]), FORWARD.programs // groups)
    q, ids = logits.new_empty(num_frames, groups, width), logits.new_empty(num_frames, groups, dtype=torch.int64)
    norms = logits.new_empty(2, num_frames, groups, dtype=sum_dtype(logits))
    shares = logits.new_empty(runs, groups, codes, dtype=sum_dtype(logits))
    sample_codes_kernel[(runs, groups)](
        logits, codebook, weight, seed, q, ids, norms, shares, num_frames, tiles, G=groups, E=width,
        EP=triton.next_power_of_2(width), ACC=sum_type(logits), num_warps=FORWARD.warps, **cut,
    )  # fmt: skip
    return q, ids, sum_parts(shares), norms


@sample_codes_forward.register_fake
def _(logits, codebook, temperature, weight, seed):
    num_frames, groups, codes = logits.shape
    q, ids = logits.new_empty(num_frames, groups, codebook.shape[-1]), logits.new_empty(logits.shape[:2])
    exact = sum_dtype(logits)
    return q, ids.long(), logits.new_empty(groups, codes, dtype=exact), logits.new_empty(2, *ids.shape, dtype=exact)


@torch.library.custom_op("raysys::sample_codes_grad", mutates_args=())
def logits_backward(
    logits: Tensor, temperature: Tensor, weight: Tensor, seed: Tensor, norms: Tensor, d_soft: Tensor, d_mean: Tensor
) -> Tensor:
    """Gradient of the logits from those of the soft sample (N, G, V) and of the mean probabilities (G, V)."""
    num_frames, groups, codes = logits.shape
    cut = _cut(codes, BACKWARD.elements)
    d_logits = torch.empty_like(logits)
    sample_codes_grad_kernel[(triton.cdiv(num_frames, cut["L"]), groups)](
        logits, d_soft, temperature, weight, seed, norms, d_mean, d_logits, num_frames, G=groups, ACC=sum_type(logits),
        num_warps=BACKWARD.warps, **cut,
    )  # fmt: skip
    return d_logits


@logits_backward.register_fake
def _(logits, temperature, weight, seed, norms, d_soft, d_mean):
    return torch.empty_like(logits)


@torch.library.custom_op("raysys::codebook_grad", mutates_args=())
def codebook_backward(ids: Tensor, d_codes: Tensor, num_codes: int) -> Tensor:
    """Gradient (G, V, E) of the codebook: the sum of d_codes (N, G, E) over the frames that took a code."""
    num_frames, groups, width = d_codes.shape
    cut = _cut_product(num_codes, width, d_codes.element_size())
    across = triton.cdiv(num_codes, cut["VP"]) * triton.cdiv(width, cut["EP"])
    tiles, runs = runs_of_tiles(triton.cdiv(num_frames, cut["L"]), CODEBOOK.programs // (across * groups))
    shares = d_codes.new_empty(runs, groups, num_codes, width, dtype=sum_dtype(d_codes))
    codebook_grad_kernel[(across, groups, runs)](
        ids, d_codes, shares, num_frames, tiles, G=groups, V=num_codes, E=width, ACC=sum_type(d_codes),
        num_warps=CODEBOOK.warps, num_stages=CODEBOOK.stages, **cut,
    )  # fmt: skip
    return sum_parts(shares)


@codebook_backward.register_fake
def _(ids, d_codes, num_codes):
    return d_codes.new_empty(d_codes.shape[1], num_codes, d_codes.shape[2], dtype=sum_dtype(d_codes))


@torch.library.custom_op("raysys::count_codes", mutates_args=())
def count_codes_triton(ids: Tensor, weight: Tensor, num_codes: int) -> Tensor:
    """Weight (G, V) of the frames that took each code, for ids (N, G) and weight (N,), contiguous; no gradient."""
    require_gpu(ids)
    num_frames, groups = ids.shape
    across = triton.cdiv(num_codes, COUNT_CODES)
    tiles, runs = runs_of_tiles(triton.cdiv(num_frames, COUNT_FRAMES), COUNT_PROGRAMS // (across * groups))
    shares = weight.new_empty(runs, groups, num_codes)
    count_kernel[(runs, groups, across)](
        ids,
        weight,
        shares,
        num_frames,
        tiles,
        G=groups,
        V=num_codes,
        L=COUNT_FRAMES,
        W=COUNT_CODES,
        ACC=sum_type(weight),
    )
    return sum_parts(shares)


@count_codes_triton.register_fake
def _(ids, weight, num_codes):
    return weight.new_empty(ids.shape[1], num_codes)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1], output[3])


def _backward(ctx, d_codes, _d_ids, d_mean, _d_norms):
    logits, codebook, temperature, weight, seed, ids, norms = ctx.saved_tensors
    d_codes = d_codes.contiguous()
    # One product for all groups gives (N, G V) as the kernel reads it; one a group gave (G, N, V).
    every_group = torch.block_diag(*codebook.to(logits.dtype)).t()
    d_soft = (d_codes.flatten(1) @ every_group).view_as(logits)
    d_logits = logits_backward(logits, temperature, weight, seed, norms, d_soft, d_mean.contiguous())
    d_codebook = codebook_backward(ids, d_codes, codebook.shape[1])
    return d_logits, d_codebook.to(codebook.dtype), None, None, None


sample_codes_forward.register_autograd(_backward, setup_context=_setup)


def sample_codes_triton(logits, codebook, temperature, weight, seed):
    """As `sample_codes_reference` with the noise of `seed`, by this project's kernels; see README.md beside this file.

    Raises:
        ValueError: sizes that the kernels are not written for.
    """
    codes, width = logits.shape[-1], codebook.shape[-1]
    if not fits(codes, width):
        raise ValueError(
            f"backend='triton' does at most {MOST_CODES} codes, not {codes}, of at most {MOST_CHANNELS} channels, not {width}: "
            "use backend='torch'"
        )
    inputs = (x.contiguous() for x in (logits, codebook, temperature, weight, seed))
    q, ids, mean_probs, _norms = sample_codes_forward(*inputs)
    return q, ids, mean_probs
