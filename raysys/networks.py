"""Networks by what they are told to be: built from a configuration, begun from a pretraining run, read from a run."""

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from model.backbone import Backbone
from model.classifier import SequenceClassifier
from model.detector import EventDetector
from model.hub import CONFIG, WEIGHTS, from_pretrained, load_strict
from model.picker import PhasePicker
from model.pretrain import PretrainModel
from raysys.config import RunConfig
from raysys.config_finetuning import PACKAGED, SEISBENCH_NETWORKS
from raysys.location import Location

log = logging.getLogger(__name__)
_PACKAGED_IN = Path(__file__).parent / "weights" / "picker"
_OURS = {"pick": PhasePicker, "detect": EventDetector, "classify": SequenceClassifier}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A trained network and where it came from.

    Attributes:
        name: short, for tables and folders.
        network: in evaluation mode, on the CPU.
        config: of its run; None for exported and for published weights.
        source: as it was asked for.
        checkpoint: the folder that was read; empty for published weights.
    """

    name: str
    network: nn.Module
    config: RunConfig | None
    source: str
    checkpoint: str


def build_network(config: RunConfig) -> nn.Module:
    """Returns the network of a configuration as it is before any training."""
    if config.task == "pretrain":
        return PretrainModel(config.model, config.mask, config.loss)
    if config.finetune.init in SEISBENCH_NETWORKS:
        from raysys.peers import build_peer  # imports SeisBench

        return build_peer(config.finetune.init, config.model.window_samples, config.model.highpass_hz)
    return _OURS[config.task](config.model, config.head)


def begin_from(network: nn.Module, init: str) -> None:
    """Gives a network's backbone the weights of a pretraining run, or of any model with such a backbone.

    Raises:
        ValueError, FileNotFoundError: no model there, or one of other shapes; the message names them.
    """
    with _folder(Location(init)) as folder:
        source = from_pretrained(folder)
    backbone = source if isinstance(source, Backbone) else source.backbone
    try:
        load_strict(network.backbone, backbone.state_dict())
    except ValueError as error:
        raise ValueError(
            f"finetune.init={init}: {error}; leave out the --model.* keys, or take those of that run"
        ) from None
    log.info("the backbone begins with the weights of %s", init)


def load_network(source: str) -> Loaded:
    """Returns what was trained.

    Args:
        source: the folder or URL of a fine-tuned run (its best checkpoint is taken), one of its checkpoints, a folder that `jobs.export`
            wrote, "default" for the picker that comes with the package, or weights that SeisBench publishes, as "phasenet:instance".

    Raises:
        ValueError, FileNotFoundError: nothing of that kind there, or weights that do not fit.
    """
    if source.split(":")[0] in SEISBENCH_NETWORKS:
        from raysys.peers import published

        return Loaded(source.replace(":", "-"), published(source), None, source, "")
    from raysys.train.storage import best_checkpoint  # imports Ray

    place = Location(_PACKAGED_IN if source == PACKAGED else source).refresh()
    if about := exported(place):
        with place.on_disk() as path:
            return Loaded(about["name"], from_pretrained(path), None, source, str(place))
    folder = place if (place / "state.json").exists() else best_checkpoint(place)
    if folder is None:
        raise ValueError(f"{source} is neither a fine-tuned run nor a checkpoint of one: it holds no whole checkpoint")
    config = RunConfig.from_dict((folder / "config.json").read_json())
    if config.task == "pretrain":
        raise ValueError(
            f"{source} is a pretraining run, which picks nothing: fine-tune it, python -m jobs.finetune --init {source}"
        )
    network = build_network(config)
    with folder.on_disk() as path:
        load_strict(network, load_file(path / WEIGHTS))
    return Loaded(config.name, network.eval(), config, source, str(folder))


def exported(place: Location) -> dict[str, Any] | None:
    """Returns what `jobs.export` wrote beside weights, "name" and "calibration"; None where a folder is none of its."""
    if not (place / CONFIG).exists():
        return None
    about = (place / CONFIG).read_json().get("run") or {}
    return about if "calibration" in about else None


def load_teacher(source: str) -> nn.Module:
    """Returns a picker whose probabilities another one may learn; without gradients.

    Raises:
        ValueError, FileNotFoundError: none there, or one whose probabilities of P, S and noise do not sum to 1.
    """
    loaded = load_network(source)
    if not hasattr(loaded.network, "soft_loss"):
        raise ValueError(
            f"finetune.teacher={source} is no picker whose probabilities of P, S and noise sum to 1: name one of --task pick"
        )
    return loaded.network.requires_grad_(False)


@contextmanager
def _folder(init: Location):
    """The folder of a model on this machine: a run's newest checkpoint where it is behind a URL."""
    if init.is_local:
        yield Path(init.path)
        return
    from raysys.train.storage import whole_checkpoints  # imports Ray

    whole = whole_checkpoints(init)
    with (whole[-1] if whole else init).on_disk() as path:
        yield path
