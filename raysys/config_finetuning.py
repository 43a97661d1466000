"""The configuration of what is fine-tuned: the keys `finetune.*` and `augment.*`."""

from dataclasses import dataclass

from model.bounds import AboveZero, BelowOne, NotNegative, Part, Whole, check_bounds

SEISBENCH_NETWORKS = ("phasenet", "eqtransformer")
"""Networks of SeisBench's that can be trained in place of ours, to compare with."""
PACKAGED = "default"
"""Name of the picker that comes with the package, wherever a trained one is asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """Fine-tuning on labelled traces."""

    init: str = "scratch"
    """What training begins with: a pretraining run or one of its checkpoints (folder), "scratch" for the same network without
    pretraining, or, for picking, a network of SeisBench's without any training: "phasenet", "eqtransformer"."""
    teacher: str = ""
    """A fine-tuned picker (run or checkpoint), "default" for the packaged one, or weights as phasenet:instance, whose probabilities are learnt in place of labels, from all
    training traces; only dev needs labels then."""
    label_fraction: AboveZero = 1.0
    """Part of the labelled training traces of every data set, drawn by event; a smaller part lies inside a larger one."""
    label_draw: Whole = 0
    """Which of the ways to draw them."""
    at_onsets: Part = 0.67
    """Fraction of the training windows that are placed so as to hold an onset, where the trace has one."""
    frozen: BelowOne = 0.15
    """Fraction of the budget in which a pretrained backbone stays as it is."""
    backbone_lr: NotNegative | None = None
    """Learning rate of the backbone over that of the head (`optim.lr`); None: 0.15 for a pretrained one, 0.5 for one from
    scratch."""
    average: BelowOne = 0.0
    """Decay a step of the moving average of the weights that is validated and kept; 0: the weights themselves are.
    Training goes on with the weights themselves in any case, and the first steps have a smaller decay."""
    left_out: tuple[str, ...] = ()
    """Data sets among `data.datasets` that are not learnt from, and that alone decide dev/score.
    So a network that learnt the others by heart is chosen by how it does on these."""
    classes_file: str = ""
    """For `task=classify`, a CSV file or URL with the columns trace_name and class, and dataset where names repeat; without it
    traces are "noise" or "earthquake" by their category."""

    def __post_init__(self):
        check_bounds(self, "finetune")


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """What is done to the windows that a network is fine-tuned on. (A window's place in its trace is always drawn.)"""

    flip: Part = 0.5
    """Fraction of windows whose polarity is reversed."""
    drop_component: BelowOne = 0.05
    """Probability that a component is zero."""
    noise: NotNegative = 0.5
    """Largest deviation of white noise that is added, over that of the component."""
    real_noise: NotNegative = 0.5
    """The same for windows of noise traces of the same batch."""
    gap: Part = 0.0
    """Fraction of windows with a gap of zeros of up to a quarter of the window; frames in it have no label."""

    def __post_init__(self):
        check_bounds(self, "augment")


CHANGED_IN_FINETUNING = (
    *(
        "finetune.init",
        "finetune.teacher",
        "finetune.label_fraction",
        "finetune.label_draw",
        "finetune.frozen",
        "finetune.backbone_lr",
    ),
    *("finetune.average", "finetune.left_out"),
    *("head.dropout", "head.span_mask", "head.channel_mask", "augment.noise", "augment.real_noise"),
    *("name", "storage", "data.root", "data.datasets", "optim.lr", "train.max_steps", "train.batch_size"),
    *("train.num_workers", "train.patience", "train.seed", "search.space"),
)
"""The keys that `--help` shows for a task of fine-tuning."""
