"""Whether the operators compute on this machine what they should: a compiler can get a kernel wrong for one GPU alone."""

from collections.abc import Iterator

import torch

from model.masking import num_masked
from model.ops.agreement import (
    Problem,
    add_norm_problem,
    contrast_problem,
    conv_qkv_gates_problem,
    disagreements,
    errors,
    feed_forward_problem,
    head_norm_gate_problem,
    linear_norm_gelu_problem,
    mlstm_cell_problem,
    mlstm_mixer_problem,
    norm_gelu_problem,
)
from model.ops.backend import fits_norm
from model.ops.mlstm_cell import mlstm_cell
from raysys.config import RunConfig
from raysys.doctor import Check, explain, fail, ok, warn

_TOLERANCE = {"torch": 1e-5, "triton": 1e-5, "xlstm": 2e-2}
"""Largest ||h - h_ref|| / ||h_ref|| of fp32 inputs; the kernels of xlstm round products to lower precision."""


def check_kernels(config: RunConfig) -> Iterator[Check]:
    """Yields one line for each backend of the mLSTM cell that runs here, compared with the reference in fp64."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backends = ("torch", "triton", "xlstm") if device == "cuda" else ("torch",)
    for backend in backends:
        try:
            error = mlstm_error(backend, device)
        except Exception as problem:  # a compiler or a driver may raise anything
            yield fail(f"mlstm {backend}", explain(problem), _kernel_remedy(backend))
            continue
        found = f"runs on {device}, {error:.1e} from the reference"
        if error <= _TOLERANCE[backend]:
            yield ok(f"mlstm {backend}", found)
        else:
            yield fail(f"mlstm {backend}", f"{found}, above {_TOLERANCE[backend]:.0e}", _kernel_remedy(backend))
    wanted = config.model.backbone.kernel
    if wanted not in ("auto", "reference", *backends):
        remedy = "use --model.backbone.kernel auto, or run on a node with a GPU"
        yield warn("mlstm", f"model.backbone.kernel={wanted!r} does not run on this machine, which has no GPU", remedy)


def check_gradients(config: RunConfig) -> Iterator[Check]:
    """Yields one line for each operator with kernels, whose values and gradients are compared with PyTorch's on the GPU.

    In bfloat16, at the sizes of every level of the configured model; compiling takes up to a minute.
    """
    if not torch.cuda.is_available() or config.model.backbone.kernel not in ("auto", "triton"):
        return
    for name, problems in kernel_problems(config, "cuda").items():
        if not problems:
            continue
        found = {f"{key} at {place}": error for place, problem in problems for key, error in errors(problem).items()}
        wrong = disagreements(found)
        if wrong:
            yield fail(f"kernels of {name}", f"wrong on this GPU: {', '.join(wrong)}", _kernel_remedy("triton"))
        else:
            worst = max(error for error, _ in found.values())
            yield ok(f"kernels of {name}", f"values and gradients agree with PyTorch, at most {worst:.1e} from fp64")


def kernel_problems(config: RunConfig, device: str) -> dict[str, list[tuple[str, Problem]]]:
    """Operator -> (frames x channels, problem) for every level of the model."""
    # These need Triton, which machines without a GPU may lack.
    from model.ops.contrast.fused import fits_width as fits_contrast
    from model.ops.conv_qkv_gates.fused import fits
    from model.ops.feed_forward.fused import fits as fits_feed_forward

    backbone = config.model.backbone
    out = {
        name: []
        for name in (
            "mlstm_cell",
            "conv_qkv_gates",
            "head_norm_gate",
            "mlstm_mixer",
            "feed_forward",
            "add_norm",
            "norm_gelu",
            "contrast",
        )
    }
    heads, frames = backbone.num_heads, config.model.num_frames
    encoded = config.model.encoder.width
    if fits_norm(encoded):
        out["norm_gelu"] += [
            (f"{frames} x {encoded}", norm_gelu_problem(2, frames, encoded, device=device)),
            (f"{frames} x 16 to {encoded}", linear_norm_gelu_problem(2, frames, encoded, device=device)),
        ]
    if fits_contrast(config.model.target_dim):
        masked = num_masked(frames, config.mask)
        problem = contrast_problem(2, masked, config.model.target_dim, device=device)
        out["contrast"].append((f"{masked} x {config.model.target_dim}", problem))
    for level in range(len(backbone.pool) + 1):
        width = backbone.width * backbone.expand**level
        inner, hidden = round(width * backbone.up_factor), backbone.ffn_width(width)
        place, dim = f"{frames} x {inner}", inner // heads
        out["mlstm_cell"].append((place, mlstm_cell_problem(2, heads, frames, dim, device=device)))
        if fits(inner, backbone.qkv_block, backbone.conv_kernel, 2 * heads):  # others run in plain PyTorch
            out["conv_qkv_gates"].append((place, conv_qkv_gates_problem(2, frames, inner, heads, device=device)))
            out["mlstm_mixer"].append((place, mlstm_mixer_problem(2, frames, inner, heads, device=device)))
        if fits_feed_forward(hidden, width):
            out["feed_forward"].append(
                (f"{frames} x {width}", feed_forward_problem(2, frames, width, hidden, device=device))
            )
        if fits_norm(width):
            out["add_norm"].append((f"{frames} x {width}", add_norm_problem(2, frames, width, device=device)))
        out["head_norm_gate"].append((place, head_norm_gate_problem(2, 2, frames, heads, dim, device=device)))
        frames //= backbone.pool[level] if level < len(backbone.pool) else 1
    return out


def mlstm_error(backend: str, device: str) -> float:
    """Returns ||h - h_ref|| / ||h_ref|| of a backend on a small fp32 problem; h_ref is the recurrence in fp64.

    Raises:
        ValueError: the backend cannot run on the device.
    """
    draw = torch.Generator().manual_seed(0)
    shape = (2, 1, 48, 2, 16)
    q, k, v = (torch.randn(shape, generator=draw) for _ in range(3))
    igate, fgate = (torch.randn(shape[:-1], generator=draw) + shift for shift in (0.0, 3.0))
    wanted = mlstm_cell(*(x.double() for x in (q, k, v, igate, fgate)), backend="reference")
    with torch.no_grad():
        h = mlstm_cell(*(x.to(device) for x in (q, k, v, igate, fgate)), backend=backend)
    return float((h.cpu().double() - wanted).norm() / wanted.norm())


def _kernel_remedy(backend: str) -> str:
    if backend == "torch":
        return "pip install -c constraints.txt -e .: this torch computes something else"
    return (
        "--model.backbone.kernel torch until it works. It needs triton >= 3.6, < 3.9 as torch installs it, a C compiler "
        "(apt-get install gcc libc6-dev) and a folder that can be written for compiled kernels (TRITON_CACHE_DIR)"
    )
