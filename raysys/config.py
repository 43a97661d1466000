"""The configuration of a run: one tree of frozen dataclasses, one dotted key for every value.

The same key (`optim.lr`) names a value on the command line, in a search space, in TensorBoard, in a report and in
`config.json`. Paths may be any fsspec URL unless a docstring says otherwise.
"""

import dataclasses
import difflib
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

from model.bounds import (
    AboveZero,
    BelowOne,
    Bounds,
    Count,
    NotNegative,
    Part,
    Positive,
    Whole,
    check_bounds,
    check_value,
)
from model.config import HeadConfig, LossConfig, MaskConfig, ModelConfig
from raysys.codebook_health import COLLAPSED_BELOW
from raysys.config_finetuning import SEISBENCH_NETWORKS, AugmentConfig, FinetuneConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which seismograms, in which order."""

    root: str = "data"
    """Folder that holds the data sets, each a SeisBench folder or the shards that `jobs.prepare` wrote."""
    datasets: tuple[str, ...] = ("all8",)
    """Names (ETHZ, STEAD, ...), "all8" for the eight, "all" for every data set below `root`, or paths."""
    cache: str = "~/.cache/raysys"
    """Local folder for the indices of SeisBench folders."""
    reader: Literal["ray", "process"] = "ray"
    """"ray": Ray Data tasks anywhere in the cluster read the windows. "process": threads of the training process."""
    alpha: NotNegative = 1.0
    """Data set d gets a share of an epoch proportional to its size ** alpha (1: as it is, 0: equal shares)."""
    weights: dict[str, NotNegative] = field(default_factory=dict)
    """Shares by hand, by data set name; they replace `alpha`."""
    crops_per_visit: Count = 1
    """Windows cut from a trace each time an epoch visits it."""
    run_rows: Count = 16
    """Neighbouring traces of a file that are visited together, so that reads stay sequential."""
    shuffle_rows: Count = 8192
    """Traces that are shuffled among each other, a multiple of `run_rows`."""
    block_rows: Count = 1024
    """Windows in a Ray Data block; the nearest multiple of the batch size is used."""
    blocks_per_task: Count = 16
    """Blocks that one read task makes, one after the other; between two tasks a reader waits for some 35 ms."""
    cpus_per_read: Positive = 1.0
    """Of a read task, as Ray counts them."""
    segment_rows: Count = 1 << 20
    """Windows per worker in one execution of the Ray Data plan."""
    prefetch_batches: Count = 4
    split_seed: Whole = 0
    """Decides the split of data sets that come without one (by event, station or time). Shards keep the splits that they
    were prepared with, and refuse another seed."""
    scan: bool = False
    """Read every trace of a SeisBench folder once, when it is indexed, to know its flaws. (Shards know theirs.)"""
    drop: tuple[str, ...] = ("dead", "short")
    """Flaws for which traces are left out, of: not finite, dead, dead component, clipped, gap, short. Traces with any
    other flaw are kept and repaired: samples that are not finite, and dead components, are zero in the model's input."""
    exclude_leaks: bool = False
    """Leave out training traces of earthquakes that any data set of the run evaluates on (its dev or test split)."""
    shard_dtype: Literal["float32", "float16"] = "float32"
    """Samples in the shards that `jobs.prepare` writes; float16 has one scale a trace and no mean."""
    shard_mb: Count = 256
    """Size of a shard, before float16 halves it."""

    def __post_init__(self):
        check_bounds(self, "data")
        if not self.datasets:
            raise ValueError("data.datasets is empty: name at least one data set, or all8")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW with a cosine schedule over the full budget."""

    lr: Positive = 1e-3
    """Peak learning rate. While fewer workers than planned are there, it falls with the square root of the batch."""
    quantizer_lr: NotNegative | None = None
    """Peak learning rate of the quantizer; None takes `lr`."""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.95)
    weight_decay: NotNegative = 0.1
    """Not applied to norms, biases, gates and the codebook."""
    warmup: BelowOne = 0.2
    """Fraction of the budget over which the learning rate rises linearly."""
    clip: Positive = 1.0
    accumulate: Count = 1
    """Micro-batches per optimiser step."""

    def __post_init__(self):
        check_bounds(self, "optim")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The training run itself."""

    seed: Annotated[int, Bounds(0, 100_000_000)] = 0
    """Of the weights, the order of windows, masks and negatives."""
    batch_size: Count = 64
    """Windows per worker and micro-batch."""
    epochs: NotNegative = 50.0
    """Budget in passes over the training split."""
    max_steps: Count | None = None
    """Budget in optimiser steps; replaces `epochs`."""
    num_workers: Count = 1
    """Ray Train workers, each with a GPU of its own where `device` is "cuda"."""
    min_workers: Count | None = None
    """Makes the run elastic between `min_workers` and `num_workers`."""
    cpus_per_worker: Positive = 1.0
    device: Literal["cuda", "cpu"] = "cuda"
    """What workers and trials compute on, and ask Ray for: a run waits for GPUs rather than go on without them."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """"auto" is bf16 autocast on a GPU and fp32 elsewhere."""
    compile: bool = False
    """On a GPU, compile the model and record the step as a CUDA graph: three times as fast, after one or two minutes at the
    start of a process, or 20 s where the compiler's caches are filled."""
    deterministic: bool = False
    """Use PyTorch's deterministic algorithms: slower on a GPU, the same bits in every run of the same versions."""
    validations_per_epoch: Positive = 4.0
    validate_every: Count | None = None
    """Steps between validations; replaces `validations_per_epoch`."""
    patience: Count | None = None
    """Validations in a row without a better `search.objective` after which the run ends; None: it uses up its budget."""
    val_windows: Count = 2048
    """Fixed validation windows, the same for every seed, world size and resume."""
    keep_checkpoints: Count = 2
    max_failures: Whole = 3
    """Failures (errors, lost workers and machines) without a new checkpoint between them, after which the run gives up;
    machines that are taken away with notice do not count."""
    wait_for_nodes_h: NotNegative = 24.0
    """Hours that a run waits for machines for its workers, or for its storage, before it gives up."""
    log_every: Count = 20
    """Steps between two lines in the console and in TensorBoard."""
    trackers: tuple[Literal["wandb", "mlflow", "trackio"], ...] = ()
    """Get the scalars of TensorBoard, too (docs/report.md, "Trackers"); their packages are installed separately."""
    max_bad_steps: Count = 20
    """Skipped steps (NaN or spike) in a row after which the run stops."""

    def __post_init__(self):
        check_bounds(self, "train")
        if self.max_steps is None and self.epochs <= 0:
            raise ValueError(f"train.epochs={self.epochs} must be positive, or set train.max_steps")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise ValueError(
                f"train.min_workers={self.min_workers} must lie between 1 and train.num_workers={self.num_workers}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """The comparable score: a closed-form linear probe for P, S and noise on frozen features."""

    fit_windows: Count = 1024
    """Labelled windows of the training split that fit the probe."""
    score_windows: Count = 1024
    """Labelled windows of the dev split that score it."""
    ridge: Positive = 1e-3
    """Relative to the mean variance of a feature."""
    before_s: NotNegative = 0.1
    """A frame counts as P or S from this long before the pick ..."""
    after_s: Positive = 0.5
    """... to this long after it."""

    def __post_init__(self):
        check_bounds(self, "probe")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """A sweep: what varies, how trials are ranked and stopped."""

    space: tuple[str, ...] = (
        "loss.diversity_lambda=loguniform(0.01, 1)",
        "loss.temperature=loguniform(0.05, 0.5)",
        "loss.num_negatives=choice(25, 50, 100, 200)",
        "mask.ratio=uniform(0.35, 0.8)",
    )
    """Dotted key = uniform(a, b), loguniform(a, b), randint(a, b), choice(...) or grid(...)."""
    objective: Literal["probe/macro_ap", "val/top1_tie", "dev/score"] = "probe/macro_ap"
    """What trials are ranked by; each follows a protocol that no tuned value changes. "dev/score" is that of fine-tuning."""
    num_trials: Count = 24
    """Configurations that are tried."""
    searcher: Literal["random", "tpe"] = "random"
    """"tpe": Optuna's, over all keys together."""
    scheduler: Literal["asha", "pbt", "pb2", "none"] = "asha"
    """"asha" stops the worse trials at rungs. "pbt" and "pb2" let the worst quarter go on, at every report, from
    checkpoints of the best quarter with changed values; pb2 chooses those by a Gaussian process."""
    reduction_factor: Annotated[int, Bounds(2)] = 3
    """Of the trials at a rung of ASHA, one in so many goes on."""
    brackets: Count = 1
    """Of ASHA: trials are dealt to so many ladders of rungs, each of which begins one rung later than the one before."""
    grace: AboveZero = 0.25
    """Fraction of the budget before which no trial is stopped or changed; not shorter than the learning-rate warm-up."""
    rungs_per_budget: Count = 8
    """Reports a trial makes over its budget."""
    workers_per_trial: Count = 1
    """1: a plain Tune function. More: a nested Ray Train run."""
    gpus_per_trial: Annotated[float, Bounds(0, ends="(]", hint="set train.device=cpu for trials without GPUs")] = 1.0
    """Of a GPU machine. Fractions let trials share a GPU: worse for a model that fills one as `base` does, better for small
    ones (docs/search.md, "Several trials on one GPU")."""
    cpus_per_trial: Positive = 1.0
    max_concurrent: Count | None = None
    max_failures: Whole = 1
    """Times that a trial that died goes on from its last checkpoint before it is given up."""
    top_k: Whole = 0
    """So many of the best configurations are run again, to the full budget with other seeds, and ranked by their mean."""
    top_k_seeds: Count = 3
    """Other seeds for each of the `top_k`."""
    min_perplexity_fraction: Part = COLLAPSED_BELOW
    """Hard perplexity over the validation set, as a fraction of all codes, below which a codebook has collapsed: a run raises
    an alarm, and a trial does not pass the health gate (`raysys.codebook_health`)."""

    def __post_init__(self):
        check_bounds(self, "search")
        if self.scheduler in ("pbt", "pb2") and self.searcher != "random":
            raise ValueError(
                f"search.scheduler={self.scheduler!r} chooses values itself: set search.searcher='random', not "
                f"{self.searcher!r}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that decides a run."""

    name: str = "base"
    """Name of the run; the same name and storage continue an interrupted run."""
    storage: str = "results"
    """Folder or URL under which runs are written."""
    task: Literal["pretrain", "pick", "detect", "classify"] = "pretrain"
    """What is learnt: to predict hidden frames from records without labels, or, from labelled ones, onsets of P and S, where
    an earthquake is in a record, or the class of a record."""
    model: ModelConfig = field(default_factory=ModelConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self):
        pretrains, objective = self.task == "pretrain", self.search.objective
        if pretrains == (objective == "dev/score"):
            fit = "probe/macro_ap or val/top1_tie" if pretrains else "dev/score"
            raise ValueError(
                f"search.objective={objective!r} is no score of task={self.task!r}: set --search.objective {fit}"
            )
        if self.finetune.teacher and (self.task != "pick" or self.finetune.init == "eqtransformer"):
            raise ValueError(
                f"finetune.teacher={self.finetune.teacher!r} teaches pickers whose probabilities sum to 1: set --task pick, and begin "
                "with a run, scratch or phasenet"
            )
        if self.finetune.init in SEISBENCH_NETWORKS and self.task in ("detect", "classify"):
            raise ValueError(
                f"finetune.init={self.finetune.init!r} is a picker: set --task pick, or begin with a run or from scratch"
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns the tree as nested plain dictionaries."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Returns the configuration of a nested dictionary, also of one written when keys had their `FORMER_NAMES`.

        Raises:
            ValueError: an unknown key (with the nearest known one), or a value of the wrong type.
        """
        values = _renamed(values)
        known = keys(cls())
        for key in _leaf_keys(values):
            if not any(key == k or key.startswith(k + ".") for k in known):
                raise ValueError(unknown_key(key, known))
        try:
            return TypeAdapter(cls).validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            if "error" in first.get("ctx", {}):  # raised by a check of ours, which names key and fix itself
                raise first["ctx"]["error"] from error
            key = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{key}={first['input']!r}: {first['msg']}") from error

    def override(self, values: dict[str, Any]) -> Self:
        """Returns a copy with dotted keys replaced, e.g. `{"optim.lr": 3e-4}`; every check runs again."""
        tree = self.to_dict()
        known = keys(self)
        for key, value in values.items():
            if key not in known:
                raise ValueError(unknown_key(key, known))
            *path, leaf = key.split(".")
            node = tree
            for part in path:
                node = node[part]
            node[leaf] = value
        return type(self).from_dict(tree)


MAY_CHANGE = frozenset(
    {
        # where things lie: the data must have the fingerprint that the run began with
        *("storage", "data.root", "data.cache"),
        # how windows are read: every reader delivers the batches of the plan
        *("data.reader", "data.block_rows", "data.blocks_per_task", "data.cpus_per_read", "data.segment_rows"),
        "data.prefetch_batches",
        # of `jobs.prepare` alone
        *("data.shard_dtype", "data.shard_mb"),
        # who computes: budget, schedule and learning rate keep referring to the workers that the run began with
        *("train.num_workers", "train.min_workers", "train.cpus_per_worker"),
        # when to look, what to keep, when to give up
        *("train.log_every", "train.validate_every", "train.validations_per_epoch", "train.keep_checkpoints"),
        "train.trackers",
        *("train.max_failures", "train.max_bad_steps", "train.wait_for_nodes_h", "train.patience"),
    }
)
"""Keys that say how a run is computed and not what: they may change when it is continued. All others decide its result."""


SWEEP_MAY_CHANGE = MAY_CHANGE - {"train.max_bad_steps", "train.patience"} | {
    *("search.num_trials", "search.max_concurrent"),
    *("search.top_k", "search.top_k_seeds"),
}
"""The same for a sweep, which may also get more trials. Trials do not heed `train.num_workers` and when a run validates."""


OFTEN_CHANGED = (
    *("name", "storage", "data.root", "data.datasets", "data.exclude_leaks", "data.scan"),
    *("model.window_samples", "model.backbone.width", "model.backbone.num_layers", "mask.ratio"),
    *("loss.temperature", "loss.num_negatives", "optim.lr"),
    *("train.epochs", "train.max_steps", "train.batch_size", "train.num_workers", "train.seed"),
    *("search.space", "search.num_trials"),
)
"""The keys that `--help` shows."""


FORMER_NAMES = {"search.min_used_fraction": "search.min_perplexity_fraction"}
"""Of keys in runs that were written earlier."""


def keys(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns every dotted key of a configuration with its value."""
    out = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        out |= keys(value, f"{prefix}{f.name}.") if dataclasses.is_dataclass(value) else {prefix + f.name: value}
    return out


def check_key(config: RunConfig, key: str, value: Any) -> None:
    """Raises a ValueError if a dotted key can never hold a value, whatever the others are."""
    *path, leaf = key.split(".")
    node: Any = config
    for part in path:
        node = getattr(node, part)
    check_value(type(node), leaf, value, ".".join(path))


def differences(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Returns the dotted keys whose values differ, each with the old and the new value."""
    before, after = keys(old), keys(new)
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def unknown_key(key: str, known) -> str:
    """Returns the message for a key that does not exist, with the nearest ones that do."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    near = near or [k for k in known if k.split(".")[-1] == key.split(".")[-1]][:1]
    return f"unknown configuration key {key!r}" + (f": did you mean {near[0]!r}?" if near else "")


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    for former, now in FORMER_NAMES.items():
        part, leaf = former.split(".")
        if leaf in values.get(part, {}):
            kept = {key: value for key, value in values[part].items() if key != leaf}
            values = values | {part: kept | {now.split(".")[1]: values[part][leaf]}}
    return values


def _leaf_keys(tree: dict, prefix: str = "") -> list[str]:
    out = []
    for key, value in tree.items():
        out += _leaf_keys(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [prefix + key]
    return out
