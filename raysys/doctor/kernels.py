"""Whether the operators compute on this machine what they should: a compiler can get a kernel wrong for one GPU alone."""

from collections.abc import Iterator

import torch

from model.masking import num_masked
from model.ops.agreement import (
    Problem,
    add_norm_problem,
    cell_problem,
    combine_problem,
    contrast_problem,
    disagreements,
    errors,
    ffn_problem,
    linear_norm_gelu_problem,
    mix_problem,
    norm_gelu_problem,
    project_problem,
)
from model.ops.choice import fits_norm
from model.ops.mlstm import mlstm
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
    from model.ops.ffn.fused import fits as fits_ffn
    from model.ops.project.fused import fits

    backbone = config.model.backbone
    out = {name: [] for name in ("mlstm", "project", "combine", "mix", "ffn", "add_norm", "norm_gelu", "contrast")}
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
        out["mlstm"].append((place, cell_problem(2, heads, frames, dim, device=device)))
        if fits(inner, backbone.qkv_block, backbone.conv_kernel, 2 * heads):  # others run in plain PyTorch
            out["project"].append((place, project_problem(2, frames, inner, heads, device=device)))
            out["mix"].append((place, mix_problem(2, frames, inner, heads, device=device)))
        if fits_ffn(hidden, width):
            out["ffn"].append((f"{frames} x {width}", ffn_problem(2, frames, width, hidden, device=device)))
        if fits_norm(width):
            out["add_norm"].append((f"{frames} x {width}", add_norm_problem(2, frames, width, device=device)))
        out["combine"].append((place, combine_problem(2, 2, frames, heads, dim, device=device)))
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
    wanted = mlstm(*(x.double() for x in (q, k, v, igate, fgate)), backend="reference")
    with torch.no_grad():
        h = mlstm(*(x.to(device) for x in (q, k, v, igate, fgate)), backend=backend)
    return float((h.cpu().double() - wanted).norm() / wanted.norm())


def _kernel_remedy(backend: str) -> str:
    if backend == "torch":
        return "pip install -c constraints.txt -e .: this torch computes something else"
    return (
        "--model.backbone.kernel torch until it works. It needs triton >= 3.6, < 3.9 as torch installs it, a C compiler "
        "(apt-get install gcc libc6-dev) and a folder that can be written for compiled kernels (TRITON_CACHE_DIR)"
    )
