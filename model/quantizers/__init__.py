"""Discrete targets: one small interface, one file a kind, and `build_quantizer`, which makes the one that a configuration names."""

from model.config import ModelConfig
from model.quantizers.gumbel import GumbelQuantizer
from model.quantizers.interface import Quantizer
from model.quantizers.none import NoQuantizer


def build_quantizer(config: ModelConfig) -> Quantizer:
    """Returns the quantizer that `config.quantizer.kind` names, with kernels or without as the backbone has it.

    Build "ema" and "residual" after torch.distributed is initialised: whether their codebooks are the same on all
    ranks is decided here.
    """
    width, target_dim, quantizer = config.encoder.width, config.target_dim, config.quantizer
    backend = config.backbone.operators
    # Imported where they are asked for: the default quantizer needs no library.
    if quantizer.kind == "gumbel":
        return GumbelQuantizer(width, target_dim, quantizer, backend)
    if quantizer.kind == "hierarchical":
        from model.quantizers.hierarchical import HierarchicalQuantizer

        return HierarchicalQuantizer(width, target_dim, quantizer, config.backbone.pool[0], backend)
    if quantizer.kind in ("ema", "residual"):
        from model.quantizers.nearest import NearestQuantizer

        return NearestQuantizer(width, target_dim, quantizer)
    if quantizer.kind == "fsq":
        from model.quantizers.fsq import FSQQuantizer

        return FSQQuantizer(width, target_dim, quantizer)
    if quantizer.kind == "none":
        return NoQuantizer(width, target_dim)
    raise ValueError(
        f"quantizer.kind={quantizer.kind!r} is unknown: take gumbel, ema, residual, fsq, hierarchical or none"
    )
