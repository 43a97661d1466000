"""Who decides between kernels and plain PyTorch."""

import pytest
import torch

from model.ops import choice


def test_kernels_where_they_are_asked_for_or_on_a_gpu():
    x = torch.ones(1)
    assert choice.by_kernels("triton", x)
    assert not choice.by_kernels("torch", x)
    assert not choice.by_kernels("auto", x)
    with pytest.raises(ValueError, match="backend='cuda' is unknown: choose auto, torch or triton"):
        choice.by_kernels("cuda", x)


def test_without_triton_its_kernels_are_refused(monkeypatch):
    monkeypatch.setattr(choice, "TRITON", False)
    with pytest.raises(ValueError, match="needs the package triton"):
        choice.by_kernels("triton", torch.ones(1))


@pytest.mark.parametrize("backend", ["auto", "torch", "triton"])
def test_the_choice_is_made_while_a_model_compiles(backend):
    compiled = torch.compile(lambda x: x + choice.by_kernels(backend, x), backend="eager", fullgraph=True)
    assert compiled(torch.zeros(1)) == (backend == "triton")
