"""SeisBench folders with quirks, drawn at random: some legal, some ambiguous, some wrong."""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from hypothesis import strategies as st

FITTING = {1: ["Z", "N"], 2: ["EN", "Z1"], 3: ["ZNE", "ENZ", "Z12", "TZR"], 4: ["H2Z1", "ZNE1"], 5: ["ZNE12", "12ENZ"]}
"""Component orders by number of channels."""
ORDERS = ["ZE2", "ZZN", "XYZ", "zne", "ZNE", "Z", ""]
RATES = [100, 100.05, 99.9986, 40, 250, 75.19]
NO_RATES = ["", "", 0, -5, "inf", 1e9, 0.01]
STORAGES = [{}, {"compression": "gzip"}, {"chunks": True}, {"fletcher32": True}]
ONSETS = [0, 3, 7.5, 20, "", "nan", -12345, -1, 10_000]
EVENTS = {"e1": "e1", "e2": "e2", "": "", 7: "7", "7.0": "7", "007": "7", -1: ""}
"""Identifiers as they are written, and the events for which they stand."""
PICKS = {"p": ("P", "Pg"), "s": ("Sn",)}
SPLITS = ("train", "dev", "test")
"""That of the event, where its rows differ, is the last of them."""


class Node(NamedTuple):
    """An HDF5 dataset, and its arrays as they were stored."""

    name: str
    data: np.ndarray
    storage: dict


class OddFolder(NamedTuple):
    """What is written to a folder."""

    nodes: list[Node]
    columns: dict[str, list]
    data_format: dict
    in_bounds: list[bool]
    """Of each row: whether its node is there and holds all that its name asks for, and its number of channels."""
    channels: list[int]
    quoted: bool

    def write(self, folder: Path) -> None:
        with h5py.File(folder / "waveforms.hdf5", "w") as file:
            for node in self.nodes:
                file.create_dataset(f"data/{node.name}", data=node.data, **node.storage)
            for key, value in self.data_format.items():
                file[f"data_format/{key}"] = value
        cell = '"{}"' if self.quoted else "{}"
        lines = [",".join(self.columns)]
        lines += [
            ",".join([f'"{name}"', *(cell.format(v) for v in rest)])
            for name, *rest in zip(*self.columns.values(), strict=True)
        ]
        (folder / "metadata.csv").write_text("\n".join(lines) + "\n")

    def must_be_read(self) -> list[bool]:
        """Returns for each row whether nothing speaks against it: it is there, its order and rate are plain, its split one."""
        order, rate = self.data_format.get("component_order", ""), self.data_format.get("sampling_rate", "")
        order = (
            "".join(x.decode() if isinstance(x, bytes) else x for x in order) if not isinstance(order, float) else ""
        )
        out = []
        for row in range(len(self.in_bounds)):
            stated = {name: column[row] for name, column in self.columns.items()}
            own = stated.get("trace_component_order") or order
            step = stated.get("trace_dt_s")
            own_rate = stated.get("trace_sampling_rate_hz", "")
            own_rate = own_rate if own_rate != "" else 1 / step if step else rate
            plain = own in FITTING.get(self.channels[row], []) and own_rate not in ("", "varying", *NO_RATES)
            out.append(self.in_bounds[row] and plain and len(self.splits(stated["trace_name"])) <= 1)
        return out

    def needs(self, key: str) -> bool:
        """Returns whether a row with a name says nothing of what `data_format` may state for all."""
        own = {"component_order": ("trace_component_order",), "sampling_rate": ("trace_sampling_rate_hz", "trace_dt_s")}
        given = [self.columns.get(column, []) for column in own[key]]
        named = (row for row, name in enumerate(self.columns["trace_name"]) if name)
        return any(all(not column or column[row] == "" for column in given) for row in named)

    def rows(self, name: str) -> list[int]:
        """Returns the rows of a trace."""
        return [row for row, other in enumerate(self.columns["trace_name"]) if other == name]

    def splits(self, name: str) -> set[str]:
        """Returns the splits that the rows of a trace state."""
        return {self.columns["split"][row] for row in self.rows(name)} - {""} if "split" in self.columns else set()

    def events(self, name: str) -> list[str]:
        """Returns the events of a trace, in the order of its rows."""
        stated = (
            [EVENTS[self.columns["source_id"][row]] for row in self.rows(name)] if "source_id" in self.columns else []
        )
        return list(dict.fromkeys(event for event in stated if event))

    def onsets(self, name: str, num_samples: int) -> tuple[dict[str, dict[float, set[str]]], int]:
        """Returns for each wave the onsets of a trace in samples and their phases, and how many others it has.

        Those are outside the trace, or zeros of a column that has more of them.
        """
        found, others = {wave: {} for wave in PICKS}, 0
        for wave, phase in ((wave, phase) for wave, phases in PICKS.items() for phase in phases):
            column = [float(cell or "nan") for cell in map(str, self.columns.get(f"trace_{phase}_arrival_sample", []))]
            stated = [column[row] for row in self.rows(name) if column and not np.isnan(column[row])]
            possible = [x for x in stated if 0 <= x < num_samples and (x or column.count(0) == 1)]
            others += len(stated) - len(possible)
            for x in possible:
                found[wave].setdefault(x, set()).add(phase)
        return found, others


_rates = st.integers(0, 7).flatmap(lambda draw: st.sampled_from(RATES if draw else NO_RATES))


@st.composite
def odd_folders(draw) -> OddFolder:
    """Draws a folder."""
    dimensions = draw(st.sampled_from(["CW"] * 12 + ["WC"] * 6 + ["NCW"]))
    nodes = [draw(_nodes(number, dimensions)) for number in range(draw(st.integers(1, 3)))]
    known = {name: rest for name, *rest in (draw(_names(nodes, dimensions)) for _ in range(draw(st.integers(1, 6))))}
    in_bounds, channels = zip(*known.values(), strict=True)
    columns = {"trace_name": list(known)}
    if draw(st.integers(0, 7)):
        orders = [st.sampled_from(ORDERS if not draw(st.integers(0, 7)) else FITTING.get(n, ORDERS)) for n in channels]
        columns["trace_component_order"] = [draw(order) for order in orders]
    if draw(st.integers(0, 5)):
        columns["trace_sampling_rate_hz"] = [draw(_rates) for _ in known]
    optional = {
        "trace_dt_s": st.sampled_from([0.01, 0.02, ""]),
        "trace_P_arrival_sample": st.sampled_from(ONSETS),
        "trace_Pg_arrival_sample": st.sampled_from(ONSETS),
        "trace_Sn_arrival_sample": st.sampled_from(ONSETS),
        "split": st.sampled_from([*SPLITS, "", ""]),
        "source_id": st.sampled_from(list(EVENTS)),
        "remark": st.just("x"),
    }
    for name, values in optional.items():
        if draw(st.integers(0, 3)):
            columns[name] = [draw(values) for _ in known]
    if draw(st.integers(0, 2)):  # a second row of the first trace, with onsets, an event and a split of its own
        own = st.sampled_from([True, True, False] if draw(st.integers(0, 3)) else [False])
        second = {c: draw(optional[c]) for c in columns if c in optional and c != "trace_dt_s" and draw(own)}
        columns = {name: [*column, second.get(name, column[0])] for name, column in columns.items()}
        in_bounds, channels = (*in_bounds, in_bounds[0]), (*channels, channels[0])
    if not draw(st.integers(0, 4)):  # a row of nothing
        columns = {name: [*column, ""] for name, column in columns.items()}
        in_bounds, channels = (*in_bounds, False), (*channels, 0)
    stated = {
        "dimension_order": st.sampled_from([dimensions, list(dimensions)]),
        "component_order": st.sampled_from(["ZNE", "ENZ", ["Z", "N", "E"], np.array([b"E", b"N", b"Z"]), "Z", 3.0]),
        "sampling_rate": st.sampled_from([100, 62.5, 40.0, np.array([50.0]), "varying"]),
    }
    needed = {"dimension_order"} if dimensions != "CW" else set()
    data_format = {key: draw(values) for key, values in stated.items() if key in needed or draw(st.booleans())}
    return OddFolder(nodes, columns, data_format, list(in_bounds), list(channels), draw(st.booleans()))


@st.composite
def _nodes(draw, number: int, dimensions: str) -> Node:
    channels, samples = draw(st.sampled_from([3, 3, 3, 1, 2, 5, 4])), draw(st.integers(1, 60))
    rows = draw(st.sampled_from([(), (1,), (3,)]))
    dtype = draw(st.sampled_from(["<f4", "<f4", ">f4", "<f8", "<i4", "<i2", "|i1"]))
    data = np.random.default_rng(number).normal(0, 30, (*rows, channels, samples)).astype(dtype)
    data = data.swapaxes(-1, -2) if dimensions == "WC" else data
    return Node(
        draw(st.sampled_from([f"node{number}", f"deep/n{number}", f"with space{number}"])),
        data,
        draw(st.sampled_from(STORAGES)),
    )


@st.composite
def _names(draw, nodes: list[Node], dimensions: str) -> tuple[str, bool, int]:
    """A trace name, whether all that it asks for is there, and its number of channels."""
    node = draw(st.sampled_from(nodes))
    in_block, sizes = node.data.ndim == 3, node.data.shape[-2:]
    kind = draw(st.sampled_from(["whole"] * 6 + ["sliced"] * 6 + ["absent", "row", "step"]))
    if kind == "absent":
        return "nowhere", False, 3
    if kind == "step":
        return f"{node.name}${'0,' * in_block}:,::2", False, 3
    held = node.data.shape[0] if in_block else 0
    row = draw(st.integers(-held, held - 1)) if in_block else None
    if kind == "row":
        return f"{node.name}${held + 3},:,:", False, 3
    if kind == "whole":
        whole = (
            ""
            if not in_block
            else draw(st.sampled_from([f"${row}", f"${row},:{sizes[0]},:{sizes[1]}", f"${row}, :,:"]))
        )
        return node.name + whole, True, sizes[dimensions.index("C") - len(dimensions)]
    slices, fits, channels = [], True, 0
    for size, is_channels in zip(sizes, (dimensions[0] == "C", dimensions[-1] == "C"), strict=True):
        start = "" if is_channels and draw(st.integers(0, 3)) else draw(st.sampled_from(["", 0, size // 3, -1, -size]))
        stop = draw(st.sampled_from(["", "", size, size + 1, min(3, size) if is_channels else max(1, size - 2)]))
        first, last = slice(start if start != "" else None, stop if stop != "" else None).indices(size)[:2]
        fits &= stop != size + 1 and first < last
        channels = last - first if is_channels else channels
        slices.append(f"{start}:{stop}")
    return f"{node.name}${f'{row},' if in_block else ''}{','.join(slices)}", fits, channels
