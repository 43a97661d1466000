"""One training step on one GPU, against Hugging Face's wav2vec 2.0 at SeisLM-base size on the same windows.

    python -m benchmarks.step [--without ROW ...]     # base preset, bf16, batch 64, windows of 4096 samples

Checks first that the Triton cell and the torch cell give the same loss. Prints one line a variant: milliseconds
(20th, 50th, 80th percentile), windows/s, peak GiB; then where the time of the fastest goes; the last line is one JSON object.
"""

import argparse
import json
import sys
import time
from functools import partial

import torch

from benchmarks.kernels import copy_bandwidth, graph_milliseconds, graphed, milliseconds
from model.comparison import Comparison, MaskedFrames
from model.config import BackboneConfig, LossConfig, MaskConfig, ModelConfig
from model.draws import Draws
from model.pretrain import PretrainModel
from raysys.config import OptimConfig, RunConfig
from raysys.data.stream import Batch
from raysys.train.flops import PEAK_BF16, training_flops
from raysys.train.optim import StepGuard, build_optimizer, set_lr
from raysys.train.step import CapturedStep, TrainStep

BATCH, SAMPLES = 64, 4096
DEVICE = torch.device("cuda")
OURS, PEER = "ours", "Hugging Face wav2vec2, SeisLM-base"
FLOOR_BYTES = 23.5e9
"""Traffic of a step in which everything is fused: 5.5 ms on an H200, where a copy moves 4.27 TB/s."""


def windows() -> torch.Tensor:
    """Noise with an onset in every window; the values do not matter, but zeros would be faster than data."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, 3, SAMPLES, device=DEVICE)
    x[:, :, SAMPLES // 2 :] *= 5
    return x


def ours(kernel: str = "auto", comparison: type[Comparison] = Comparison) -> PretrainModel:
    """The model of the base preset."""
    torch.manual_seed(0)
    config = ModelConfig(backbone=BackboneConfig(kernel=kernel))
    model = PretrainModel(config, MaskConfig(), LossConfig())
    model.comparison = comparison(config.target_dim, model.loss_config)
    return model.to(DEVICE)


def our_step(model: PretrainModel, compiled: bool = True, captured: bool = True):
    """A function that trains one step as `raysys.train` does: forward, backward, clipping, guarded AdamW."""
    if compiled:
        model.compile_parts()
    optimizer = build_optimizer(model, OptimConfig(), DEVICE)
    set_lr(optimizer, 0.1)
    number = torch.zeros(BATCH, device=DEVICE, dtype=torch.int32)
    batch = Batch(windows(), torch.full_like(number, SAMPLES), number, number, number, number)
    step = TrainStep(model.train(), optimizer, StepGuard(DEVICE), RunConfig(), DEVICE)
    if captured:
        step = CapturedStep(step)
        for _ in range(step.WARM_UP):
            step([batch])
    return lambda: step([batch])


class Materialised(Comparison):
    """The same loss with all K negatives of every frame gathered, as usual: (B, M, K, D)."""

    def forward(self, masked, draws):
        """As that of `Comparison`."""
        context, targets, positive = self._scored(masked)
        batch, frames, width = targets.shape
        most = self.config.num_negatives
        others = (masked.count - 1).view(-1, 1, 1)
        drawn = torch.minimum((draws.uniform(batch, frames, most) * others).long(), others - 1)
        drawn = (drawn + (drawn >= torch.arange(frames, device=DEVICE)[:, None])).clamp_max(frames - 1).flatten(1)
        negatives = targets.gather(1, drawn[..., None].expand(-1, -1, width)).view(batch, frames, most, width)
        scores = torch.cosine_similarity(context[:, :, None], negatives, dim=-1) / self.current_temperature()
        same = masked.ids.gather(1, drawn).view(batch, frames, most) == masked.ids[..., None]
        scores = scores.masked_fill(same, -1e30)
        total = torch.cat([positive[..., None], scores], dim=-1).logsumexp(dim=-1)
        return total - positive, ~(scores > positive[..., None]).any(dim=-1)


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
    return {
        "step_ms": round(p50, 3),
        "windows_per_s": round(BATCH / p50 * 1e3, 1),
        "peak_gib": round(gib, 2),
        "kernels": count_kernels(step),
    }


def check() -> None:
    """Raises AssertionError unless the Triton and the torch cell agree on the loss of the same windows."""
    losses = []
    for kernel in ("triton", "torch"):
        model = ours(kernel).eval()
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            losses.append(model(windows()[:8], window_id=torch.arange(8, device=DEVICE)).contrastive.item())
    print(f"loss with the triton cell {losses[0]:.5f}, with the torch cell {losses[1]:.5f}", flush=True)
    assert abs(losses[0] - losses[1]) < 2e-2, losses


def parts() -> dict[str, float]:
    """Milliseconds of forward and backward pass of each part, each as a CUDA graph of its own."""
    model, out = ours(), {}
    model.compile_parts()
    unet, config = model.backbone.unet, model.model_config.backbone
    draws, weight = Draws(DEVICE), torch.ones(BATCH, 672, device=DEVICE)

    def quantize(features):
        quantized = model.quantizer(features, weight, draws)
        return quantized.targets, quantized.mean_probs

    def compare(context, targets):
        with torch.autocast("cuda", enabled=False):
            return model.comparison(MaskedFrames(context, targets, ids, count), draws)[0]

    def through(stage, x):
        for layer in stage:
            x = layer(x, seeds)
        return x

    ids = torch.randint(0, 320**2, (BATCH, 672), device=DEVICE)
    count = torch.full((BATCH,), 666, device=DEVICE)
    seeds = torch.randint(2**62, (2,), device=DEVICE)
    stages = {"stages of 1024 frames": unet.down[0], "stages of 256": unet.down[1], "stage of 64": unet.bottom}
    named = {
        "encoder": (model.backbone.encoder, [windows()], 1),
        **{
            name: (
                partial(through, stage),
                [torch.randn(BATCH, frames, width, device=DEVICE).bfloat16().requires_grad_()],
                times,
            )
            for (name, stage), frames, width, times in zip(
                stages.items(),
                (1024, 256, 64),
                (config.width, 2 * config.width, 4 * config.width),
                (2, 2, 1),
                strict=True,
            )
        },
        "quantizer": (quantize, [torch.randn(BATCH, 672, 256, device=DEVICE).requires_grad_()], 1),
        "comparison with negatives": (
            compare,
            [torch.randn(BATCH, 672, 256, device=DEVICE, dtype=torch.bfloat16).requires_grad_() for _ in range(2)],
            1,
        ),
    }
    for name, (function, inputs, times) in named.items():
        wanted = [x for x in inputs if x.requires_grad]
        module = {"quantizer": model.quantizer, "encoder": model.backbone.encoder, **stages}.get(name)
        wanted += list(module.parameters()) if module else []

        def run(function=function, inputs=inputs, wanted=wanted):
            with torch.autocast("cuda", torch.bfloat16):
                found = function(*inputs)
            found = found if isinstance(found, tuple) else (found,)
            torch.autograd.grad(found, wanted, [torch.ones_like(x) for x in found], allow_unused=True)

        out[name] = times * graph_milliseconds(run)[1]
    optimizer, guard = build_optimizer(model, OptimConfig(), DEVICE), StepGuard(DEVICE)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)

    def optimise():
        guard.step(optimizer, optimizer.grad_norm(), 1.0)

    replay = graphed(optimise)
    optimizer.after_recording()
    out["clipping and optimiser"] = milliseconds(replay)[1]
    return {name: round(value, 3) for name, value in out.items()}


def count_kernels(step) -> int:
    """Kernels that one step runs on the GPU."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
        step()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without", nargs="*", default=[], metavar="ROW", help="words of rows to leave out")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a GPU")
    torch.set_float32_matmul_precision("high")
    torch.cuda.set_stream(torch.cuda.Stream())  # CUDA graphs cannot be recorded on the default stream
    check()
    results = {}
    variants = {
        OURS: lambda: our_step(ours()),
        "compiled, not recorded": lambda: our_step(ours(), captured=False),
        "eager": lambda: our_step(ours(), compiled=False, captured=False),
        "negatives materialised": lambda: our_step(ours(comparison=Materialised)),
        "NX-AI's cell": lambda: our_step(ours("xlstm")),
        PEER: seislm_step,
    }
    for name, make in variants.items():
        if any(word in name for word in options.without):
            continue
        torch._dynamo.reset()
        try:
            results[name] = measure(name, make)
        except (RuntimeError, TypeError, ValueError, ImportError) as error:
            print(f"{name}: failed: {type(error).__name__} {str(error)[:300]}", flush=True)
        torch.cuda.empty_cache()
    best, peer = results[OURS], results.get(PEER, {}).get("step_ms")
    torch._dynamo.reset()
    table = parts()
    for name, value in table.items():
        print(f"{name:34s} {value:7.3f} ms", flush=True)
    mfu = training_flops(RunConfig()) * best["windows_per_s"] / PEAK_BF16[torch.cuda.get_device_name()]
    print(
        json.dumps(
            {
                **best,
                "speedup_over_seislm_base": peer and round(peer / best["step_ms"], 2),
                "mfu": round(mfu, 4),
                "share_of_floor": round(1e3 * FLOOR_BYTES / copy_bandwidth() / best["step_ms"], 3),
                "parts_ms": table,
                "all": results,
            }
        )
    )


if __name__ == "__main__":
    main()
