"""What the model is made of, as frozen dataclasses. Every default is the number of docs/model.md."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from model.bounds import BelowOne, Bounds, Count, Inside, NotNegative, Positive, check_bounds


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Waveform to latent frames: strided convolutions, as in wav2vec 2.0 (Baevski et al. 2020, section 2)."""

    width: Count = 256
    """Channels of every convolution, and of the features that are quantised."""
    num_layers: Count = 2
    """Convolutions; each halves the rate, so 2 turn 100 Hz samples into 25 frames a second."""
    kernel: Count = 3
    stride: Count = 2

    def frame_center(self, frame: float) -> float:
        """Returns the sample (0 is the first one) that a frame is centred on, e.g. 4 j for frame j of the default.

        The one place that says where a frame lies in time. A layer of an even kernel sees half a step more of what follows.
        """
        middle, step = 0.0, 1
        for _ in range(self.num_layers):
            middle += step * ((self.kernel - 1) / 2 - (self.kernel - 1) // 2)
            step *= self.stride
        return middle + step * frame

    def __post_init__(self):
        check_bounds(self, "model.encoder")


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneConfig:
    """The bidirectional mLSTM U-Net (Beck et al. 2024, xLSTM, for the mLSTM)."""

    width: Count = 128
    """Channels of the finest level; each coarser level has `expand` times as many."""
    num_layers: Count = 3
    """Layers in each stage. Stages: one per level going down, and one per finer level going up again."""
    pool: tuple[Count, ...] = (4, 4)
    """Frames folded into one between a level and the next coarser one."""
    expand: Count = 2
    num_heads: Count = 4
    up_factor: Positive = 2.0
    """Width of the mLSTM's inner space over the width of its level."""
    conv_kernel: Count = 4
    qkv_block: Count = 4
    """Size of the blocks of the block-diagonal query, key and value projections."""
    gate_cap: Positive | None = 15.0
    """Gate pre-activations x become cap * tanh(x / cap); None leaves them as they are (as xlstm does)."""
    ffn_factor: Positive = 1.6
    dropout: BelowOne = 0.1
    direction_weights: Literal["shared", "separate"] = "shared"
    """One set of mLSTM weights for both time directions, or one for each."""
    kernel: Literal["auto", "reference", "torch", "triton", "xlstm"] = "auto"
    """Backend of the mLSTM cell; "auto" is triton on a GPU and torch elsewhere. With "torch" or "reference" no other kernel of this
    project runs in the model either."""

    @property
    def operators(self) -> Literal["auto", "torch"]:
        """Backend of all operators but the cell, which alone has more than two."""
        return "torch" if self.kernel in ("torch", "reference") else "auto"

    def ffn_width(self, width: int) -> int:
        """Returns the hidden channels of a feed-forward net, a multiple of 8: tensor cores are slow on other sizes."""
        return 8 * math.ceil(self.ffn_factor * width / 8)

    def __post_init__(self):
        check_bounds(self, "model.backbone")
        inner = self.width * self.up_factor
        if inner % (self.num_heads * self.qkv_block):
            raise ValueError(
                f"backbone.width={self.width} times up_factor={self.up_factor} is {inner:g}, which num_heads="
                f"{self.num_heads} x qkv_block={self.qkv_block} does not divide: take a width that is a multiple of "
                f"{self.num_heads * self.qkv_block}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig:
    """What stands on top of the backbone when it is fine-tuned, and how it is regularised."""

    width: Count = 64
    """Channels of the head."""
    kernel: Count = 7
    """Samples that each of its two wide convolutions sees."""
    waveform: bool = True
    """The head sees the waveform beside the context, so that an onset has a place to the sample and not to the frame."""
    dropout: BelowOne = 0.0
    """Of the channels of the head's input."""
    span_mask: BelowOne = 0.0
    """Fraction of the frames that are hidden from the backbone in training, in spans of `span_frames`."""
    span_frames: Count = 10
    channel_mask: BelowOne = 0.0
    """Fraction of the encoder's channels that are zero in training, drawn for each window."""
    label_width_s: Positive = 0.2
    """Standard deviation of the Gaussian around an onset that a picker learns."""
    classes: tuple[str, ...] = ("earthquake", "noise")
    """Names of the classes of a classifier."""

    def __post_init__(self):
        check_bounds(self, "head")
        if len(set(self.classes)) < 2 or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"head.classes={self.classes} has to name two classes or more, each once")


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizerConfig:
    """Discrete targets. "gumbel" is the product quantizer of wav2vec 2.0; the others are alternatives behind the same face."""

    kind: Literal["gumbel", "ema", "residual", "fsq", "hierarchical", "none"] = "gumbel"
    num_groups: Count = 2
    num_codes: Annotated[int, Bounds(2)] = 320
    """Codes in each group."""
    code_dim: Count = 128
    logits: Literal["linear", "distance"] = "linear"
    scale_logits: bool = False
    """Divide the logits by sqrt(width). Off: it makes nearly all targets noise at the start of training."""
    gumbel_start: Positive = 2.0
    gumbel_end: Positive = 0.5
    """The Gumbel temperature falls from start to end along a cosine over the full budget."""
    ema_decay: BelowOne = 0.8
    """Of the codebooks of "ema" and "residual", per step."""
    commitment: NotNegative = 0.25
    """Weight of the commitment loss of "ema" and "residual" (van den Oord et al. 2017, equation 3)."""
    revive_below: NotNegative = 0.1
    """Codes of "ema" and "residual" used less often than this times 1 / num_codes are set to a random frame."""
    rotation_trick: bool = False
    """Gradient of "ema" and "residual" by rotation (Fifty et al. 2024) instead of straight-through."""
    fsq_levels: tuple[Annotated[int, Bounds(2)], ...] = (8, 8, 5)
    """Levels of each dimension of "fsq"; their product is num_codes."""

    def __post_init__(self):
        check_bounds(self, "model.quantizer")
        if self.kind == "fsq" and math.prod(self.fsq_levels) != self.num_codes:
            raise ValueError(
                f"quantizer.fsq_levels={self.fsq_levels} make {math.prod(self.fsq_levels)} codes, not num_codes="
                f"{self.num_codes}: (8, 8, 5) makes 320"
            )
        if self.kind == "hierarchical" and (self.num_groups != 2 or self.logits != "linear"):
            raise ValueError(
                f"quantizer.kind='hierarchical' has a coarse and a fine group with linear logits: set num_groups=2 (now "
                f"{self.num_groups}) and logits='linear' (now {self.logits!r})"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Everything that fixes the shapes of the weights."""

    window_samples: Count = 4096
    """Samples of one window at 100 Hz."""
    highpass_hz: Annotated[float, Bounds(0, 25)] = 0.0
    """Corner of the high-pass in the normaliser (`model.preprocess.highpass`); 0: none. Ground motion below 1 Hz can be a thousand
    times larger than what a picker is after."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    target_dim: Count = 256
    """Width of the space in which contexts and targets are compared."""

    def __post_init__(self):
        check_bounds(self, "model")
        fold = self.samples_per_coarse_frame
        if self.window_samples % fold:
            raise ValueError(
                f"model.window_samples={self.window_samples} is not a multiple of {fold} (encoder stride x pooling): "
                f"take {max(1, round(self.window_samples / fold)) * fold}"
            )
        quantizer = self.quantizer
        if quantizer.kind == "gumbel" and quantizer.logits == "distance":
            split = quantizer.num_groups * quantizer.code_dim
            if split != self.encoder.width:
                raise ValueError(
                    f"quantizer.logits='distance' compares the features' groups with the codes: quantizer.num_groups x "
                    f"code_dim = {split} must equal encoder.width={self.encoder.width}"
                )

    @property
    def samples_per_frame(self) -> int:
        return self.encoder.stride**self.encoder.num_layers

    @property
    def samples_per_coarse_frame(self) -> int:
        """Samples that one frame of the coarsest level spans: every window is a multiple of it."""
        return self.samples_per_frame * math.prod(self.backbone.pool)

    @property
    def num_frames(self) -> int:
        return self.window_samples // self.samples_per_frame


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskConfig:
    """Spans of frames hidden from the backbone."""

    ratio: Inside = 0.65
    """Fraction of the frames that are really masked ("exact"), or the start probability x span ("wav2vec2")."""
    span_frames: Count = 10
    mode: Literal["exact", "wav2vec2"] = "exact"

    def __post_init__(self):
        check_bounds(self, "mask")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """InfoNCE and the diversity of the codebook."""

    temperature: Positive = 0.1
    """Similarities are divided by it; the first value of an annealed or learned one."""
    temperature_mode: Literal["fixed", "annealed", "learned"] = "fixed"
    temperature_end: Positive = 0.1
    """Last value of an annealed temperature (cosine over the full budget)."""
    similarity: Literal["cosine", "dot", "l2"] = "cosine"
    num_negatives: Count = 100
    """Frames that each masked frame is told from."""
    negatives: Literal["row", "expected", "pool", "mixed", "hard", "queue"] = "row"
    """Where negatives come from: drawn from the masked frames of the same window (row), the same with every frame
    weighted by its expected count (expected), the whole batch (pool), half and half (mixed), the most similar of the
    row (hard), a memory bank (queue)."""
    pool_frames: Count = 2048
    """Candidates drawn anew in every step for the negatives of pool, mixed and queue; each counts K / pool_frames times."""
    queue_frames: Count = 16384
    """Frames that the memory bank remembers."""
    diversity_lambda: NotNegative = 0.1
    diversity: Literal["linear", "entropy"] = "linear"
    frames: Literal["masked", "all"] = "masked"
    """Frames that count for the diversity."""

    def __post_init__(self):
        check_bounds(self, "loss")
