"""The launches that the presets make, noted on a machine without a GPU: whole models run on tensors without memory."""

import functools
import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch
import triton
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

import model.ops
from model.ops.gumbel_codes import gumbel_noise
from model.ops.mlstm_cell import fused as cell
from model.picker import PhasePicker
from model.pretrain import PretrainModel
from raysys.presets import PRESETS
from raysys.train.optim import AdamW

SHARED_MEMORY = 101_376
"""Bytes that a program may use on the smallest GPUs (sm_86 and sm_89) that run what is compiled for sm_80."""


def most_shared(capability: int) -> int:
    """Returns the bytes that a program may use on GPUs that run what is compiled for a capability: sm_90 and sm_100 have 227 KB."""
    return SHARED_MEMORY if capability == 80 else 232_448


def all_kernels() -> dict[str, JITFunction]:
    """Returns every kernel of model.ops by its folder and name, like `feed_forward/feed_forward_kernel`; other compiled functions are parts of these."""
    found = {}
    for module in pkgutil.walk_packages(model.ops.__path__, "model.ops."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, JITFunction) and name.endswith("_kernel"):
                found[_name(value)] = value
    return dict(sorted(found.items()))


def _name(kernel: JITFunction) -> str:
    place = kernel.fn.__module__.removeprefix("model.ops.").split(".")[0]
    return f"{place}/{kernel.fn.__name__}"


@dataclass(frozen=True)
class _Placed:
    """What Triton asks of a tensor: its type, and where it lies, here within its storage."""

    dtype: torch.dtype
    address: int

    def data_ptr(self) -> int:
        return self.address


def _placed(x):
    return _Placed(x.dtype, x.storage_offset() * x.element_size()) if isinstance(x, torch.Tensor) else x


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A kernel, what Triton compiles it for, and how many programs of it there are."""

    kernel: JITFunction
    signature: dict[str, str]
    constants: dict[tuple[int, ...], object]
    attributes: dict[tuple[int, ...], list]
    settings: dict[str, object]
    """Warps, stages, registers and constants, by name."""
    grid: tuple[int, ...]

    @property
    def name(self) -> str:
        return _name(self.kernel)

    @property
    def key(self) -> str:
        """Two launches with one key are one compilation."""
        settings = {key: value for key, value in self.settings.items() if key not in self.signature}
        return repr((self.name, self.signature, self.constants, self.attributes, settings))

    def compile(self, capability: int = 90):
        """Returns the compiled kernel, as Triton would build it on a GPU of that compute capability."""
        target = GPUTarget("cuda", capability, 32)
        source = ASTSource(self.kernel, self.signature, self.constants, self.attributes)
        return triton.compile(source, target=target, options=make_backend(target).parse_options(self.settings).__dict__)


@functools.cache
def _binder(kernel: JITFunction) -> tuple:
    backend = make_backend(GPUTarget("cuda", 90, 32))
    return backend, create_function_from_signature(kernel.signature, kernel.params, backend)


def _noted(kernel: JITFunction, args, settings, grid) -> Launch:
    """The launch, its arguments specialised by Triton's own code: which pointers and sizes are multiples of 16, which are 1."""
    backend, bind = _binder(kernel)
    bound, special, options = bind(*map(_placed, args), **settings)
    _, signature, constants, attributes = kernel._pack_args(backend, settings, bound, special, options)
    return Launch(
        kernel=kernel, signature=signature, constants=constants, attributes=attributes, settings=settings, grid=grid
    )


def _layout(out) -> list[tuple]:
    return [(x.shape, x.stride(), x.dtype) for x in (out if isinstance(out, tuple) else (out,))]


def _made(op) -> Callable:
    """What an operator does on a GPU but for the kernels; its outputs have to be as it says beforehand that they will be."""
    said, make = op._abstract_fn, op._init_fn

    def run(*args):
        out = make(*args)
        assert _layout(out) == _layout(said(*args)), f"{op._qualname} makes {_layout(out)}, not {_layout(said(*args))}"
        return out

    return run


@contextmanager
def recorded(shared_memory: float = math.inf) -> Iterator[list[Launch]]:
    """Gives a list that fills with the launches made inside, by operators that believe to be on a GPU.

    Args:
        shared_memory: bytes that a program may use on that GPU.
    """
    launches = []

    def run(kernel, *args, grid, warmup, **settings):
        launches.append(_noted(kernel, args, settings, grid))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, "run", run)
        patch.setattr(FakeTensor, "is_cuda", True)
        patch.setattr(cell, "shared_memory_of", lambda device: shared_memory)
        for name, op in OPDEFS.items():
            if name.startswith("raysys::") and op._abstract_fn is not None:
                patch.setattr(op, "_abstract_fn", _made(op))
        with FakeTensorMode():
            yield launches


def pretrain(preset: str, bf16: bool = True, **backbone) -> None:
    """Runs a training step of a preset, without its optimiser; one layer a stage, as all of a stage launch the same."""
    config = PRESETS[preset]()
    backbone = replace(config.model.backbone, **{"num_layers": 1} | backbone)
    network = PretrainModel(replace(config.model, backbone=backbone), config.mask, config.loss)
    waveform = torch.empty(config.train.batch_size, 3, config.model.window_samples)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        losses = network(waveform)
    losses.total.backward()


def pick(preset: str, batch: int, num_samples: int, train: bool, bf16: bool = True) -> None:
    """Runs the picker of a preset, forward and in training backward too."""
    config = PRESETS[preset]().model
    network = PhasePicker(replace(config, backbone=replace(config.backbone, num_layers=1))).train(train)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), torch.set_grad_enabled(train):
        logits = network.logits(torch.empty(batch, 3, num_samples))
    if train:
        logits.sum().backward()


def optimise(preset: str) -> None:
    """Takes the optimiser's step of a preset for parameters that are there, since it asks where they lie."""
    config = PRESETS[preset]().optim
    with torch._subclasses.fake_tensor.unset_fake_temporarily(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("model.ops.adamw.fused.require_gpu", lambda x: None)
        parameter = torch.nn.Parameter(torch.zeros(70, 300))
        parameter.grad = torch.zeros_like(parameter)
        optimizer = AdamW(
            [{"params": [parameter], "lr": torch.tensor(0.0)}], config.betas, torch.device("cuda"), backend="triton"
        )
        optimizer.grad_scale, optimizer.found_inf = torch.ones(()), torch.zeros(())
        optimizer.grad_norm()
        optimizer.step()


SCENES: dict[str, Callable[[], None]] = {
    "base": lambda: (pretrain("base"), optimise("base")),
    "large": lambda: pretrain("large"),
    "separate": lambda: pretrain("base", direction_weights="separate"),
    "no dropout": lambda: pretrain("base", dropout=0.0),
    "single precision": lambda: pretrain("base", bf16=False),
    "fine-tuning": lambda: pick("base", batch=2, num_samples=4096, train=True),
    "picking": lambda: pick("base", batch=1, num_samples=3001, train=False),
    "noise": lambda: gumbel_noise(torch.zeros(1, dtype=torch.int64), 1000, 2, 320, backend="triton"),
}
"""What is run. Together these launch every kernel."""


@functools.cache
def launches(scene: str, shared_memory: float = math.inf) -> tuple[Launch, ...]:
    """Returns the launches of a scene, each compilation once, in the order in which they come."""
    with recorded(shared_memory) as found:
        SCENES[scene]()
    return tuple({launch.key: launch for launch in found}.values())
