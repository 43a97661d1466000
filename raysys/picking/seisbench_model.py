"""A picker as a model of SeisBench's: `Picker.load("folder/picker")`, `annotate`, `classify`, their async twins, `save`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import obspy
import pandas as pd
import seisbench
import seisbench.models as sbm
import seisbench.util as sbu
from torch import Tensor

from model.config import HeadConfig, ModelConfig
from model.hub import decode
from model.picker import LABELS, PhasePicker
from raysys.config_finetuning import PACKAGED
from raysys.data.resample import RATE_HZ
from raysys.picking.curves import probabilities
from raysys.picking.picks import Calibration
from raysys.picking.record import Record
from raysys.picking.stream import curves_as_stream, pick_records, read_stream
from raysys.picking.trained import load_picker

CITATION = "See the model card (README.md) beside the weights."


class Picker(sbm.WaveformModel):
    """A fine-tuned picker that reads ObsPy streams.

    `annotate` and `classify` read by `raysys.picking`: any rate from 20 Hz on, any order and most names of components, one live
    component, gaps, records shorter than a window. They give the same wherever a stream is cut, and an error inside is raised.

    Args:
        model, head: configurations as nested dictionaries (`model.config`).
        calibration: of dev (`raysys.picking.picks.Calibration`) as a dictionary.
    """

    _annotate_args: ClassVar = {
        "batch_size": ("Windows read at once; None: what suits the device.", None),
        "*_threshold": ("Least probability of a pick of P or S, as P_threshold.", 0.3),
    }

    def __init__(
        self, model: dict[str, Any], head: dict[str, Any], calibration: dict[str, Any] | None = None, **kwargs
    ):
        config = decode(ModelConfig, model, "model")
        self.calibration = decode(Calibration, calibration or {}, "calibration")
        thresholds = {"P_threshold": self.calibration.p_threshold, "S_threshold": self.calibration.s_threshold}
        samples = config.window_samples
        super().__init__(
            citation=CITATION,
            component_order="ZNE",
            sampling_rate=RATE_HZ,
            output_type="array",
            in_samples=samples,
            pred_sample=(0, samples),
            labels=LABELS,
            default_args=thresholds,
            grouping="instrument",
            **kwargs,
        )
        self.picker = PhasePicker(config, decode(HeadConfig, head, "head"))

    @classmethod
    def of(cls, picker: PhasePicker, calibration: Calibration) -> Picker:
        """Returns a picker of `model.picker` as a model of SeisBench's, in evaluation mode."""
        parts = (picker.model_config, picker.head_config, calibration)
        made = cls(*(dataclasses.asdict(part) for part in parts))
        made.picker.load_state_dict(picker.state_dict())
        return made.eval()

    @classmethod
    def open(cls, source: str = PACKAGED) -> Picker:
        """Returns a picker of ours by what `raysys.picking.trained.load_picker` takes; without a source the one of the package.

        Raises:
            ValueError, FileNotFoundError: nothing there that picks, or a network of SeisBench's.
        """
        trained = load_picker(source)
        if not isinstance(trained.network, PhasePicker):
            raise ValueError(f"{source} is a network of SeisBench's: load it by its own class")
        return cls.of(trained.network, trained.calibration)

    def forward(self, x: Tensor) -> Tensor:
        """Returns probabilities (B, 3, T) of P, S and noise for waveforms (B, 3, T) at 100 Hz in ZNE order, in any unit."""
        return self.picker(x)

    @property
    def phases(self) -> list[str]:
        """The waves that it picks."""
        return ["P", "S"]

    async def annotate_async(self, stream: obspy.Stream, copy: bool = True, **kwargs) -> obspy.Stream:
        """Returns probabilities as traces of channels Picker_P, Picker_S and Picker_N at 100 Hz; `stream` is not changed.

        SeisBench's own reading is not used: an error in it never ends (0.12), and its windows begin where a stream does.
        """
        self._verify_argdict(kwargs)
        batch, found = self._argdict_get_with_default(self.default_args | kwargs, "batch_size"), obspy.Stream()
        names = tuple(f"{self.name}_{label}" for label in LABELS)
        with self._evaluation():
            for record in self._records(stream):
                found += curves_as_stream(probabilities(self.picker, record, batch).cpu().numpy(), record, names)
        return found

    async def classify_async(self, stream: obspy.Stream, **kwargs) -> sbu.ClassifyOutput:
        """Returns the picks, as `.picks` of the result, sorted by time."""
        return sbu.ClassifyOutput(self.name, picks=pick_list(self.table(stream, **kwargs)))

    def table(self, stream: obspy.Stream, **kwargs) -> pd.DataFrame:
        """Returns the same picks with all that is known of them (`raysys.picking.picks.COLUMNS`)."""
        self._verify_argdict({key: value for key, value in kwargs.items() if key != "copy"})
        given = self.default_args | kwargs
        calibration = dataclasses.replace(
            self.calibration, p_threshold=given["P_threshold"], s_threshold=given["S_threshold"]
        )
        batch = self._argdict_get_with_default(given, "batch_size")
        with self._evaluation():
            return pick_records(self.picker, self._records(stream), calibration, self.name, batch)

    def classify_aggregate(self, annotations: obspy.Stream, argdict: dict[str, Any]) -> sbu.ClassifyOutput:
        """Returns the picks in curves that `annotate` returned, their probabilities as they are."""
        picks = []
        for phase in self.phases:
            curves = annotations.select(channel=f"{self.name}_{phase}")
            picks += self.picks_from_annotations(curves, (self.default_args | argdict)[f"{phase}_threshold"], phase)
        return sbu.ClassifyOutput(self.name, picks=sbu.PickList(sorted(picks, key=lambda pick: pick.peak_time)))

    def get_model_args(self) -> dict[str, Any]:
        """Returns what `__init__` takes, for the file beside the weights."""
        parts = {"model": self.picker.model_config, "head": self.picker.head_config, "calibration": self.calibration}
        return {name: dataclasses.asdict(part) for name, part in parts.items()}

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        """Evaluation mode, as in SeisBench's own `annotate`: `load` returns a model that drops out."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    def _records(self, stream: obspy.Stream) -> list[Record]:
        records, why = read_stream(stream, self.picker.window_samples)
        for line in why:
            seisbench.logger.warning(f"not read: {line}")
        return records


def pick_list(picks: pd.DataFrame) -> sbu.PickList:
    """Returns a table of picks as SeisBench has them, by time; `peak_value` is the calibrated probability."""
    picks = picks.sort_values(["peak_time", "network", "station", "location", "phase"])
    ids = picks["network"] + "." + picks["station"] + "." + picks["location"]
    times = [
        [obspy.UTCDateTime(ns=int(ns)) for ns in picks[name].astype("int64")]
        for name in ("start_time", "end_time", "peak_time")
    ]
    rows = zip(ids, *times, picks["probability"], picks["phase"], strict=True)
    return sbu.PickList(sbu.Pick(*row) for row in rows)
