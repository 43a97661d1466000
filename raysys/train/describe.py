"""What a configuration means, without running it: shapes, parameters and memory."""

from torch.overrides import TorchFunctionMode

from raysys.config import RunConfig
from raysys.networks import build_network


class _WithoutValues(TorchFunctionMode):
    """Leaves weights as `torch.empty` makes them, so that a large model costs neither time nor memory."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        initialises = getattr(func, "__module__", None) == "torch.nn.init"
        return None if initialises else func(*args, **(kwargs or {}))


def describe(config: RunConfig) -> str:
    """Returns the shapes of the U-Net, the parameters by part and a memory estimate, in lines."""
    with _WithoutValues():
        model = build_network(config)
    ours = hasattr(model, "backbone")
    lines = (
        _shapes(config) if ours else [f"{config.finetune.init} of SeisBench's, {config.model.window_samples} samples"]
    )
    lines += ["", "parameters:"]
    total = sum(p.numel() for p in model.parameters())
    parts = {name: child for name, child in model.named_children() if name != "backbone"}
    parts |= dict(model.backbone.named_children()) if ours else {}
    for name, part in parts.items():
        if count := sum(p.numel() for p in part.parameters()):
            lines.append(f"  {name:12s} {count:>12,}")
    lines.append(f"  {'total':12s} {total:>12,}")
    lines += ["", f"memory of weights, gradients and AdamW: {total * 16 / 2**30:.2f} GiB a worker"]
    if ours:
        lines.append(f"activations kept for the backward pass (estimate): {_activation_gib(config):.1f} GiB a worker")
    return "\n".join(lines)


def _shapes(config: RunConfig) -> list[str]:
    lines = ["shapes (frames x width):"]
    frames, width = config.model.num_frames, config.model.backbone.width
    lines.append(f"  waveform 3 x {config.model.window_samples} -> encoder {frames} x {config.model.encoder.width}")
    for level in range(len(config.model.backbone.pool) + 1):
        lines.append(f"  level {level}: {frames} x {width}, {config.model.backbone.num_layers} layers a stage")
        if level < len(config.model.backbone.pool):
            frames, width = frames // config.model.backbone.pool[level], width * config.model.backbone.expand
    if config.task == "pretrain":
        masked = round(config.mask.ratio * config.model.num_frames)
        lines.append(f"  masked frames: {masked} of {config.model.num_frames}; negatives: {config.loss.num_negatives}")
    return lines


def _activation_gib(config: RunConfig) -> float:
    """About 40 numbers of two bytes a channel, frame and layer are kept, plus the similarities of the loss."""
    frames, width, total = config.model.num_frames, config.model.backbone.width, 0.0
    pools = config.model.backbone.pool
    for level in range(len(pools) + 1):
        stages = 1 if level == len(pools) else 2
        total += stages * config.model.backbone.num_layers * frames * width * 40 * 2
        if level < len(pools):
            frames, width = frames // pools[level], width * config.model.backbone.expand
    masked = round(config.mask.ratio * config.model.num_frames)
    return config.train.batch_size * (total + masked * masked * 12) / 2**30
