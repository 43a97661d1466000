"""The named configurations. Each is a function; its docstring says what it needs and what to expect."""

from collections.abc import Callable

from model.config import BackboneConfig, EncoderConfig, LossConfig, MaskConfig, ModelConfig, QuantizerConfig
from raysys.config import DataConfig, OptimConfig, ProbeConfig, RunConfig, SearchConfig, TrainConfig, keys
from raysys.config_finetuning import PACKAGED, SEISBENCH_NETWORKS
from raysys.location import Location


def base() -> RunConfig:
    """The model of docs/model.md on the eight data sets.

    Command: python -m jobs.pretrain base --data.root /path/to/seisbench/datasets --train.num-workers 8
    Hardware: GPUs with 16 GB or more. 50 epochs are 2.6 million steps of 64 windows in all, about 14 hours of one H100.

    The diversity loss is the entropy. With the linear one of wav2vec 2.0 the codebook collapsed to 12 % of its codes; with
    the entropy 73 % stay in use (docs/training.md).
    """
    return RunConfig(
        name="base",
        loss=LossConfig(diversity="entropy"),
        train=TrainConfig(compile=True),
        search=SearchConfig(num_trials=64),
    )


def large() -> RunConfig:
    """The model of `base` with twice the width and four layers a stage.

    Command: python -m jobs.pretrain large --data.root /path/to/seisbench/datasets --train.num-workers 8
    """
    model = ModelConfig(backbone=BackboneConfig(width=256, num_layers=4))
    return RunConfig(name="large", model=model, loss=LossConfig(diversity="entropy"), train=TrainConfig(compile=True))


def small() -> RunConfig:
    """A model that reads records a thousand times faster than they were recorded on one CPU core: the picker for machines without a GPU.

    Command: python -m jobs.finetune small --init scratch --data.root /path/to/datasets --train.device cpu
    0.37 M parameters. Windows of 31 s, less what lies below 1 Hz.
    """
    model = ModelConfig(
        window_samples=3072,
        highpass_hz=1.0,
        encoder=EncoderConfig(width=32),
        backbone=BackboneConfig(width=32, num_layers=1, num_heads=2),
        quantizer=QuantizerConfig(num_codes=64, code_dim=32),
        target_dim=64,
    )
    return RunConfig(name="small", model=model, loss=LossConfig(diversity="entropy"), train=TrainConfig(compile=True))


def demo() -> RunConfig:
    """A small model that learns on two CPU cores in a few minutes.

    Command: make demo
    Expect: contrastive loss well below chance, log(33) = 3.50, and a probe that beats an untrained model.
    """
    model = ModelConfig(
        encoder=EncoderConfig(width=32),
        backbone=BackboneConfig(width=32, num_layers=1, num_heads=2, dropout=0.0),
        quantizer=QuantizerConfig(num_codes=64, code_dim=32),
        target_dim=64,
        window_samples=1024,
    )
    return RunConfig(
        name="demo",
        model=model,
        loss=LossConfig(num_negatives=32),
        data=DataConfig(datasets=("all",), block_rows=256, blocks_per_task=2, cpus_per_read=0.25),
        optim=OptimConfig(lr=3e-3),
        train=TrainConfig(
            batch_size=8,
            max_steps=300,
            num_workers=2,
            cpus_per_worker=0.5,
            device="cpu",
            validate_every=100,
            val_windows=128,
        ),
        probe=ProbeConfig(fit_windows=256, score_windows=128),
        search=SearchConfig(
            space=(*SearchConfig().space[:2], "loss.num_negatives=choice(8, 16, 32, 64)", SearchConfig().space[3]),
            num_trials=8,
            grace=0.25,
            reduction_factor=2,
            rungs_per_budget=8,
        ),
    )


def smoke() -> RunConfig:
    """The smallest model that has every part; a run takes seconds on a CPU.

    Command: python -m jobs.pretrain smoke --data.root /path/to/datasets
    """
    model = ModelConfig(
        encoder=EncoderConfig(width=16),
        backbone=BackboneConfig(width=16, num_layers=1, num_heads=2, qkv_block=4, dropout=0.0),
        quantizer=QuantizerConfig(num_codes=16, code_dim=8),
        target_dim=16,
        window_samples=512,
    )
    return RunConfig(
        name="smoke",
        model=model,
        mask=MaskConfig(span_frames=4),
        loss=LossConfig(num_negatives=8),
        data=DataConfig(datasets=("all",), block_rows=32, blocks_per_task=2, cpus_per_read=0.25),
        train=TrainConfig(
            batch_size=4,
            max_steps=8,
            num_workers=1,
            cpus_per_worker=0.5,
            device="cpu",
            validate_every=4,
            val_windows=16,
            log_every=2,
        ),
        probe=ProbeConfig(fit_windows=32, score_windows=16),
        search=SearchConfig(num_trials=4, rungs_per_budget=4, reduction_factor=2),
    )


FINETUNING = {
    "search.objective": "dev/score",
    "search.space": (
        "optim.lr=loguniform(5e-4, 5e-3)",
        "finetune.backbone_lr=loguniform(0.03, 0.6)",
        "head.dropout=uniform(0, 0.4)",
        "head.span_mask=uniform(0, 0.3)",
    ),
    "data.datasets": ("all",),
    "optim.lr": 2e-3,
    "optim.warmup": 0.1,
    "optim.weight_decay": 0.01,
    "train.compile": False,
}
"""What fine-tuning changes of a preset."""
_LR = {"phasenet": 1e-2, "eqtransformer": 1e-3}
"""Peak learning rates that are usual for the networks of SeisBench's."""


def finetuning(config: RunConfig, task: str, init: str) -> RunConfig:
    """Returns a preset as a task of fine-tuning: so many steps whatever the fraction of the labels, and the model of `init`.

    Raises:
        FileNotFoundError: `init` names a folder without a model.
    """
    values = FINETUNING | {"name": f"{config.name}-{task}", "task": task, "finetune.init": init}
    if config.train.max_steps is None:
        values |= {"train.max_steps": 800, "train.batch_size": 32, "train.validate_every": 100}
    if init in _LR:
        values["optim.lr"] = _LR[init]
    elif init != "scratch":
        values |= _model_of(init)
    return config.override(values)


def absolute_init(init: str) -> str:
    """Returns `finetune.init` as workers find it, whose working directory is another."""
    return init if init in ("scratch", *SEISBENCH_NETWORKS) else Location(init).url


def with_absolute_places(config: RunConfig) -> RunConfig:
    """Returns a configuration of which workers find what it begins with, and its file of classes."""
    tuning = config.finetune
    places = {"finetune.init": absolute_init(tuning.init)}
    if tuning.teacher and tuning.teacher.split(":")[0] not in (PACKAGED, *SEISBENCH_NETWORKS):
        places["finetune.teacher"] = Location(tuning.teacher).url
    if tuning.classes_file:
        places["finetune.classes_file"] = Location(tuning.classes_file).url
    return config.override(places)


def _model_of(init: str) -> dict[str, object]:
    """The keys of the model in a run, a checkpoint or a model's folder."""
    file = Location(init) / "config.json"
    if not file.exists():
        peers = " or ".join(("scratch", *SEISBENCH_NETWORKS))
        raise FileNotFoundError(f"finetune.init={init}: no config.json there: name a pretraining run, or {peers}")
    config = RunConfig.from_dict({"model": file.read_json()["model"]})
    return {key: value for key, value in keys(config).items() if key.startswith("model.")}


PRESETS: dict[str, Callable[[], RunConfig]] = {f.__name__: f for f in (smoke, demo, small, base, large)}
