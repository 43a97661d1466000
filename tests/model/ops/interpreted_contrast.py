"""`contrast` on the CPU, in Triton's interpreter. Run by test_interpreted.py, in a process with TRITON_INTERPRET=1."""

import pytest
import torch
from interpreted import assert_equal, cases, poisoned_memory, tensors, value_and_gradients  # noqa: F401

from model.contrastive import drawn_words
from model.ops.contrast import contrast, fused
from model.ops.launch import PieceLaunch

SIZES = {
    "one tile": (2, 21, 16),
    "several, ragged": (2, 150, 32),
    "one frame": (1, 1, 16),
    "no multiple of 4": (1, 70, 16),
}


def drawn(batch, num_frames, num_codes, num_negatives=20, seed=3):
    """Codes of the frames, and words of counts; the last frames of a window are padding."""
    gen = torch.Generator().manual_seed(seed)
    ids = torch.randint(num_codes, (batch, num_frames), generator=gen)
    uniform = torch.rand(batch, num_frames, num_negatives, generator=gen)
    count = torch.randint(max(1, num_frames - 5), num_frames + 1, (batch,), generator=gen)
    return ids, drawn_words(uniform, count, torch.tensor(num_negatives))


def both(sizes, dtype=torch.float64, cosine=True, temperature=0.1, num_codes=6):
    batch, num_frames, _ = sizes
    ids, words = drawn(batch, num_frames, num_codes)

    def run(backend, kind):
        inputs = [*tensors(sizes, sizes, dtype=kind), torch.tensor(temperature, dtype=kind, requires_grad=True)]

        def operator(context, targets, temperature):
            return contrast(context, targets, ids, words, temperature, cosine=cosine, backend=backend)[0]

        with torch.no_grad():
            right = contrast(*inputs[:2], ids, words, inputs[2], cosine=cosine, backend=backend)[1]
        return value_and_gradients(operator, inputs), right

    return run("triton", dtype), run("torch", torch.float64)


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("case", cases(SIZES, "one tile"))
def test_contrast_equals_reference(case, cosine):
    (ours, right), (ref, right_ref) = both(SIZES[case], cosine=cosine, temperature=0.1 if cosine else 2.0)
    assert_equal(ours, ref, 1e-10)
    assert torch.equal(right, right_ref)


def test_small_temperatures_and_one_code_for_all():
    (ours, _), (ref, _) = both(SIZES["one tile"], temperature=0.004)
    assert_equal(ours, ref, 1e-9)
    (ours, right), _ = both(SIZES["one tile"], num_codes=1)
    assert right.all()
    assert all(x.abs().max() < 1e-12 for x in ours)


@pytest.mark.slow
def test_contrast_in_single_precision():
    (ours, _), (ref, _) = both(SIZES["several, ragged"], torch.float32)
    assert_equal(ours, ref, 1e-5)


def test_other_tiles_give_the_same(monkeypatch):
    monkeypatch.setattr(fused, "FORWARD", PieceLaunch(16, 32, 4, 2))
    monkeypatch.setattr(fused, "BACKWARD", PieceLaunch(32, 16, 4, 2))
    (ours, right), (ref, right_ref) = both((2, 37, 16))
    assert_equal(ours, ref, 1e-10)
    assert torch.equal(right, right_ref)
    assert 0 < right.sum() < right.numel()
