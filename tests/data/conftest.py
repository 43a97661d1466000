"""Small SeisBench folders written by hand, so that every byte is known."""

from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest

from raysys.data.index import load_index
from raysys.data.windows import Traces


def write_set(
    folder: Path,
    waveforms: list[np.ndarray],
    *,
    rate_hz=100.0,
    order="ZNE",
    chunk="",
    columns: dict | None = None,
    **storage,
) -> Path:
    """Writes one block of traces (components, samples) and returns the folder; `storage` goes to h5py."""
    folder.mkdir(parents=True, exist_ok=True)
    longest = max(w.shape[1] for w in waveforms)
    block = np.zeros((len(waveforms), waveforms[0].shape[0], longest), waveforms[0].dtype)
    for row, waveform in enumerate(waveforms):
        block[row, :, : waveform.shape[1]] = waveform
    with h5py.File(folder / f"waveforms{chunk}.hdf5", "w") as file:
        file.create_dataset("data/bucket0", data=block, **storage)
        file["data_format/dimension_order"] = "CW"
        file["data_format/component_order"] = order
    names = [f'"bucket0${i},:{w.shape[0]},:{w.shape[1]}"' for i, w in enumerate(waveforms)]
    table = {"trace_name": names, "trace_sampling_rate_hz": [rate_hz] * len(names), **(columns or {})}
    lines = [",".join(table)] + [",".join(str(v[i]) for v in table.values()) for i in range(len(names))]
    (folder / f"metadata{chunk}.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def noise_set(tmp_path):
    """Ten traces of noise in ZNE order with a split column."""
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal((3, 900 + 10 * i)).astype(np.float32) for i in range(10)]
    return write_set(tmp_path / "noise", waveforms, columns={"split": ["train"] * 8 + ["dev", "test"]}), waveforms


@pytest.fixture(scope="session")
def mixed(tmp_path_factory) -> Traces:
    """Traces of seven files: four rates, three types, four component orders, compressed and plain, of many lengths."""
    folder, rng, tables = tmp_path_factory.mktemp("mixed"), np.random.default_rng(5), []
    for name, num, rate_hz, dtype, order, storage in (
        ("direct", 12, 100.0, "<f4", "ZNE", {}),
        ("double", 40, 100.0, "<f8", "ENZ", {}),
        ("packed", 30, 100.0, "<f4", "ZRT", {"compression": "gzip"}),
        ("coarse", 34, 40.0, "<f4", "Z", {}),
        ("sparse", 5, 20.0, "<f4", "ZNE", {}),
        ("fine", 20, 250.0, "<i4", "21Z", {}),
        ("coarse_packed", 4, 40.0, "<f4", "NE", {"compression": "gzip"}),
    ):
        lengths = np.round(rng.choice([300, 301, 455], num) * rate_hz / 100).astype(int)
        waveforms = [np.round(1000 * rng.standard_normal((len(order), n)) + 300).astype(dtype) for n in lengths]
        write_set(folder / name, waveforms, rate_hz=rate_hz, order=order, **storage)
        tables.append(load_index(str(folder / name), name, str(folder / "cache")))
    return Traces.from_table(pa.concat_tables([table.replace_schema_metadata(None) for table in tables]))
