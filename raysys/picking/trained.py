"""Pickers that are ready to read: a run, weights that SeisBench publishes, what `jobs.export` wrote, or the one that comes with the package."""

import logging
from dataclasses import dataclass

from torch import nn

from model.hub import decode
from raysys.config_finetuning import PACKAGED
from raysys.location import Location
from raysys.networks import exported, load_network
from raysys.picking.picks import Calibration

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainedPicker:
    """A network that picks, and what dev said about it.

    Attributes:
        name: short, for tables.
        network: in evaluation mode, on the CPU.
        calibration: its thresholds and so on.
    """

    name: str
    network: nn.Module
    calibration: Calibration


def load_picker(source: str = PACKAGED) -> TrainedPicker:
    """Returns a picker.

    Args:
        source: what `raysys.networks.load_network` takes; without it the one that comes with the package.

    Raises:
        ValueError, FileNotFoundError: nothing there that picks.
    """
    loaded = load_network(source)
    if about := loaded.checkpoint and exported(Location(loaded.checkpoint)):
        return TrainedPicker(loaded.name, loaded.network, decode(Calibration, about["calibration"], "calibration"))
    if loaded.config is not None and loaded.config.task != "pick":
        raise ValueError(f"{source} was trained to {loaded.config.task} and not to pick: name a run of --task pick")
    log.warning(
        "%s: nothing says from which probability on its picks are to be trusted, so thresholds are %g and probabilities are taken "
        "as they are; evaluate it and export it (docs/picks.md)",
        source,
        Calibration().p_threshold,
    )
    return TrainedPicker(loaded.name, loaded.network, Calibration())


def calibration_of(evaluation: str, checkpoint: str) -> tuple[Calibration, dict]:
    """Returns what an evaluation says of a checkpoint: its calibration, and its part of evaluation.json.

    Args:
        evaluation: the folder that `jobs.evaluate` wrote.
        checkpoint: of the network.

    Raises:
        ValueError: the checkpoint was not evaluated there; the message names those that were.
    """
    models = (Location(evaluation) / "evaluation.json").read_json()["models"]
    mine = [told for told in models.values() if told["checkpoint"] == checkpoint]
    if not mine:
        known = ", ".join(f"{name} ({told['checkpoint'] or told['source']})" for name, told in models.items())
        raise ValueError(f"{evaluation} does not evaluate {checkpoint}: it has {known}")
    told, default = mine[0], Calibration()
    thresholds, spread, odds = told["thresholds"], told.get("spread") or {}, told.get("odds") or {}
    calibration = Calibration(
        p_threshold=thresholds["P"] or default.p_threshold,
        s_threshold=thresholds["S"] or default.s_threshold,
        p_odds=_known(odds.get("P"), default.p_odds),
        s_odds=_known(odds.get("S"), default.s_odds),
        p_spread=spread.get("P"),
        s_spread=spread.get("S"),
    )
    return calibration, told


def _known(odds: list[float | None] | None, default: tuple[float, float]) -> tuple[float, float]:
    """Slope and offset, where dev had enough picks to say them."""
    return default if odds is None or None in odds else (odds[0], odds[1])
