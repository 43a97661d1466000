"""One training step on one GPU, against Hugging Face's wav2vec 2.0 at SeisLM-base size on the same windows.

    python -m benchmarks.step            # base preset, bf16, batch 64, windows of 4096 samples

Checks first that the Triton cell and the torch cell give the same loss. Prints one line a variant: milliseconds
(20th, 50th, 80th percentile), windows/s, peak GiB; the last line is one JSON object.
"""

import json
import sys
import time

import torch

from model.config import BackboneConfig, LossConfig, MaskConfig, ModelConfig
from model.pretrain import PretrainModel
from raysys.config import OptimConfig
from raysys.train.optim import StepGuard, build_optimizer, set_lr

BATCH, SAMPLES = 64, 4096
DEVICE = torch.device("cuda")


def windows() -> torch.Tensor:
    """Noise with an onset in every window; the values do not matter, but zeros would be faster than data."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, 3, SAMPLES, device=DEVICE)
    x[:, :, SAMPLES // 2 :] *= 5
    return x


def ours(kernel: str = "auto") -> PretrainModel:
    """The model of the base preset."""
    torch.manual_seed(0)
    return PretrainModel(ModelConfig(backbone=BackboneConfig(kernel=kernel)), MaskConfig(), LossConfig()).to(DEVICE)


def our_step(model: PretrainModel):
    """A function that trains one step: forward, backward, clipping, guarded AdamW."""
    x, optimizer, guard = windows(), build_optimizer(model, OptimConfig(), DEVICE), StepGuard(DEVICE)
    set_lr(optimizer, 0.1)

    def step() -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            losses = model(x)
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        guard.step(optimizer, norm)
        optimizer.zero_grad(set_to_none=False)
        return losses.total.detach()

    return step


def graphed(step):
    """The step as one CUDA graph: the host launches it once instead of thousands of kernels."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def seislm_step():
    """The same for Wav2Vec2ForPreTraining with hidden 240, 6 layers, 12 heads, FFN 3072, two convolutions."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

    config = Wav2Vec2Config(
        hidden_size=240, num_hidden_layers=6, num_attention_heads=12, intermediate_size=3072, conv_dim=(256, 256),
        conv_stride=(2, 2), conv_kernel=(3, 3), feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True,
        num_negatives=100, codevector_dim=256, proj_codevector_dim=256,
    )  # fmt: skip
    model = Wav2Vec2ForPreTraining(config).to(DEVICE)
    first = model.wav2vec2.feature_extractor.conv_layers[0]
    first.conv = torch.nn.Conv1d(3, 256, 3, stride=2, bias=True).to(DEVICE)
    model.wav2vec2.feature_extractor.forward = lambda x: _features(model, x)
    x = windows()
    frames = int(model._get_feat_extract_output_lengths(SAMPLES))
    mask = _compute_mask_indices((BATCH, frames), 0.65, 10)
    negatives = torch.from_numpy(_sample_negative_indices((BATCH, frames), 100, mask_time_indices=mask)).to(DEVICE)
    mask = torch.from_numpy(mask).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(x, mask_time_indices=mask, sampled_negative_indices=negatives).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _features(model, x):
    hidden = x
    for layer in model.wav2vec2.feature_extractor.conv_layers:
        hidden = layer(hidden)
    return hidden


def measure(name: str, make, repeats: int = 20) -> dict:
    """Times a step with CUDA events after a warm-up; a variant that fails is reported and left out."""
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    step = make()
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    ready = time.perf_counter() - start
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    p20, p50, p80 = (sorted(times)[int(q * (repeats - 1))] for q in (0.2, 0.5, 0.8))
    gib = torch.cuda.max_memory_allocated() / 2**30
    print(
        f"{name:34s} {p20:7.2f} {p50:7.2f} {p80:7.2f} ms  {BATCH / p50 * 1e3:7.0f} windows/s  {gib:5.1f} GiB  ready {ready:4.0f} s",
        flush=True,
    )
    return {"step_ms": round(p50, 3), "windows_per_s": round(BATCH / p50 * 1e3, 1), "peak_gib": round(gib, 2)}


def check() -> None:
    """Raises AssertionError unless the Triton and the torch cell agree on the loss of the same windows."""
    losses = []
    for kernel in ("triton", "torch"):
        model = ours(kernel).eval()
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            losses.append(model(windows()[:8], window_id=torch.arange(8, device=DEVICE)).contrastive.item())
    print(f"loss with the triton cell {losses[0]:.5f}, with the torch cell {losses[1]:.5f}", flush=True)
    assert abs(losses[0] - losses[1]) < 2e-2, losses


def compiled_layers() -> PretrainModel:
    """The model with each layer of the U-Net compiled by itself."""
    model = ours()
    model.backbone.unet.compile_layers()
    return model


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a GPU")
    torch.set_float32_matmul_precision("high")
    check()
    results = {}
    variants = {
        "eager": lambda: our_step(ours()),
        "eager, one CUDA graph": lambda: graphed(our_step(ours())),
        "layers compiled": lambda: our_step(compiled_layers()),
        "layers compiled, one CUDA graph": lambda: graphed(our_step(compiled_layers())),
        "Hugging Face wav2vec2, SeisLM-base": seislm_step,
    }
    for name, make in variants.items():
        try:
            results[name] = measure(name, make)
        except (RuntimeError, TypeError, ValueError) as error:
            print(f"{name}: failed: {str(error)[:300]}", flush=True)
        torch.cuda.empty_cache()
    best = min((r for n, r in results.items() if "Hugging" not in n), key=lambda r: r["step_ms"])
    peer = results.get("Hugging Face wav2vec2, SeisLM-base", {}).get("step_ms")
    print(json.dumps({**best, "speedup_over_seislm_base": peer and round(peer / best["step_ms"], 2), "all": results}))


if __name__ == "__main__":
    main()
