"""Where traces lie: every legal name, link and order of dimensions is read as SeisBench reads it, or left out with a reason."""

import dataclasses
import os

import h5py
import numpy as np
import pytest
import seisbench.data as sbd

from raysys.data.hdf5_layout import ABSENT, LINK, NOT_REAL, UNSUPPORTED
from raysys.data.index import dropped_rows, load_index
from raysys.data.seisbench_format import read_chunk
from raysys.data.windows import Traces, read_windows
from raysys.location import Location

SAMPLES = 60


@pytest.fixture
def layouts(tmp_path):
    """A file with every layout of traces, and what is stored in it."""
    rng = np.random.default_rng(0)
    shapes = {
        "block": (4, 3, 50),
        "pair": (3, 2, 30),
        "plain": (2, 33),
        "chunked": (2, 3, 20),
        "line": (9,),
        "deep": (1, 1, 2, 5),
    }
    stored = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    stored["plain"] = stored["plain"].astype(np.float32)
    with h5py.File(tmp_path / "waveforms.hdf5", "w") as file:
        for name, array in stored.items():
            file.create_dataset(f"data/{name}", data=array, chunks=(1, 3, 10) if name == "chunked" else None)
    return tmp_path, stored


def named(folder, traces: dict[str, str]):
    rows = "".join(f'"{name}",100,{order}\n' for name, order in traces.items())
    (folder / "metadata.csv").write_text("trace_name,trace_sampling_rate_hz,trace_component_order\n" + rows)
    return read_chunk(str(folder), "set", "")


def test_every_trace_is_found_at_its_bytes(layouts):
    folder, stored = layouts
    names = {"block$2,:3,:50": "ZNE", "block$3,:2,:41": "EZ", "pair$2,:2,:30": "NE", "plain": "Z1"}
    names |= {"chunked$1,:3,:20": "ZNE", "block$-1,1:,-9:": "NE", "plain$1:, :30": "E", "chunked$0, 2:,5:": "Z"}
    rows = named(folder, names)[0].to_pylist()
    columns = ("node", "node_row", "start", "num_components", "num_samples", "stride", "step", "dtype", "file_size")
    size = (folder / "waveforms.hdf5").stat().st_size
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("block", 2, 0, 3, 50, 50, 1, "<f8", size),
        ("block", 3, 0, 2, 41, 50, 1, "<f8", size),
        ("pair", 2, 0, 2, 30, 30, 1, "<f8", size),
        ("plain", -1, 0, 2, 33, 33, 1, "<f4", size),
        ("chunked", 1, 0, 3, 20, 20, 1, "<f8", size),
        ("block", 3, 91, 2, 9, 50, 1, "<f8", size),
        ("plain", -1, 33, 1, 30, 33, 1, "<f4", size),
        ("chunked", 0, 45, 1, 15, 20, 1, "<f8", size),
    ]
    assert [row["offset"] == -1 for row in rows] == [False] * 4 + [True, False, False, True]
    for row, array in zip(rows[:4], (*stored["block"][2:], stored["pair"][2], stored["plain"]), strict=True):
        read = np.fromfile(folder / "waveforms.hdf5", row["dtype"], array.size, offset=row["offset"])
        np.testing.assert_array_equal(read.reshape(array.shape), array)


@pytest.mark.parametrize(
    "name",
    ["block$4,:3,:50", "block$0,:3,:51", "block$0,:4,:50", "block$0,:3,:0", "block", "plain$0,:2,:33", "line", "deep"],
    ids=str,
)
def test_a_name_that_its_file_does_not_hold_is_left_out(layouts, name):
    table, dropped, _ = named(layouts[0], {name: "ZNE", "block$3,:3,:50": "ZNE"})
    assert table["trace_name"].to_pylist() == ["block$3,:3,:50"]
    assert dropped == {"no such trace in the waveform file (or beyond its end)": 1}


NAMES = [
    "b$0,:3,:60", "b$1,:,:", "b$2,0:3,0:60", "b$3,:3,10:60", "b$4,:3,:20", "b$5, :3, :60", "b$-1,:,-7:-2", "b$2", "b$1,:",
    "one", "one$:,5:", "one$:3", "path/one", "b$0,:3,0:0060",
]  # fmt: skip
NOT_READ = {
    "b$0,:3,::2": UNSUPPORTED,
    "b$0:1,:,:": UNSUPPORTED,
    "b$0,1,:": UNSUPPORTED,
    "b$99999999999,:,:": UNSUPPORTED,
}
NOT_READ |= {"b$6,:,:": ABSENT, "b$0,2:1,:": ABSENT, "b": ABSENT, "b$:,:": ABSENT, "one$0,:,:": ABSENT, "none": ABSENT}
NOT_READ |= {"words": NOT_REAL, "complex": NOT_REAL, "group": ABSENT}


def write_names(folder, names, order="CW", **storage):
    """Writes a block of six traces and two single ones, and a metadata file that names some."""
    rng = np.random.default_rng(0)
    with h5py.File(folder / "waveforms.hdf5", "w", userblock_size=512) as file:
        for node, shape in (("b", (6, 3, SAMPLES)), ("one", (3, SAMPLES)), ("path/one", (3, SAMPLES))):
            data = rng.standard_normal(shape).astype(np.float32)
            file.create_dataset(f"data/{node}", data=data if order == "CW" else data.swapaxes(-1, -2), **storage)
        file["data/words"] = np.array([[b"ab"] * 3] * 3)
        file["data/complex"] = np.ones((3, 60), complex)
        file.create_group("data/group")
        file["data_format/dimension_order"], file["data_format/component_order"] = order, "ZNE"
    rows = "".join(f'"{name}",100\n' for name in names)
    (folder / "metadata.csv").write_text("trace_name,trace_sampling_rate_hz\n" + rows)


def compare_with_seisbench(folder, cache, expected: int) -> Traces:
    """Compares every trace, at its own rate, with what SeisBench reads; the traces come back."""
    table = load_index(str(folder), "set", str(cache))
    traces = Traces.from_table(table)
    assert len(traces) == expected
    theirs = sbd.WaveformDataset(folder, component_order="ZNE", dimension_order="NCW")
    ours = dataclasses.replace(traces, up=np.ones_like(traces.up), down=np.ones_like(traces.down))
    for i, name in enumerate(table["trace_name"].to_pylist()):
        stored = theirs.get_waveforms(theirs.metadata.index[theirs.metadata["trace_name"] == name][0])
        x, valid = read_windows(ours, np.array([i, i]), np.array([0, 3]), SAMPLES)
        assert valid.tolist() == [stored.shape[1], max(0, stored.shape[1] - 3)], name
        for got, start in zip(x, (0, 3), strict=True):
            wanted = stored[:, start:].astype(np.float32)
            np.testing.assert_array_equal(got, np.pad(wanted, ((0, 0), (0, SAMPLES - wanted.shape[1]))), name)
    return traces


@pytest.mark.parametrize("storage", [{}, {"compression": "gzip"}, {"chunks": True}, {"dtype": ">f8"}], ids=str)
def test_names_mean_what_they_mean_to_seisbench(tmp_path, storage):
    write_names(tmp_path, [*NAMES, *NOT_READ], **storage)
    compare_with_seisbench(tmp_path, tmp_path / "cache", len(NAMES))
    dropped = dropped_rows(load_index(str(tmp_path), "set", str(tmp_path / "cache")))
    assert dropped == {reason: list(NOT_READ.values()).count(reason) for reason in (ABSENT, UNSUPPORTED, NOT_REAL)}


@pytest.mark.parametrize("storage", [{}, {"compression": "gzip"}, {"dtype": "<i4"}], ids=str)
def test_samples_may_come_first(tmp_path, storage):
    names = ["b$0,:60,:3", "b$1,:,:", "b$2,10:30,:", "b$-1", "one", "one$5:,:", "path/one$:20"]
    write_names(tmp_path, names, order="WC", **storage)
    traces = compare_with_seisbench(tmp_path, tmp_path / "cache", len(names))
    far = dataclasses.replace(traces, files=(f"memory://{tmp_path.name}/waveforms.hdf5",))
    Location(far.files[0]).write((tmp_path / "waveforms.hdf5").read_bytes())
    ids = np.arange(len(traces))
    for a, b in zip(read_windows(traces, ids, ids, 30), read_windows(far, ids, ids, 30), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("storage", [{}, {"compression": "gzip"}], ids=["plain", "gzip"])
@pytest.mark.parametrize("order", ["CW", "WC"])
def test_one_component_alone_is_read_in_either_order(tmp_path, order, storage):
    rng = np.random.default_rng(1)
    with h5py.File(tmp_path / "waveforms.hdf5", "w") as file:
        for node, shape in (("long", (1, 40)), ("short", (1, 1))):
            data = rng.standard_normal(shape)
            file.create_dataset(f"data/{node}", data=data if order == "CW" else data.T, **storage)
        block = rng.standard_normal((2, 3, 40))
        file.create_dataset("data/b", data=block if order == "CW" else block.swapaxes(1, 2), **storage)
        file["data_format/dimension_order"], file["data_format/component_order"] = order, "Z"
    names = [
        "long",
        "short",
        "b$1,1:2,4:" if order == "CW" else "b$1,4:,1:2",
        "b$0,2:,7:8" if order == "CW" else "b$0,7:8,2:",
    ]
    rows = "".join(f'"{name}",100\n' for name in names)
    (tmp_path / "metadata.csv").write_text("trace_name,trace_sampling_rate_hz\n" + rows)
    compare_with_seisbench(tmp_path, tmp_path / "cache", 4)


def test_blocks_that_mix_one_and_three_components_are_read_compressed_or_not(tmp_path):
    for storage in ({}, {"compression": "gzip"}):
        with h5py.File(tmp_path / "waveforms.hdf5", "w") as file:
            block = np.random.default_rng(0).standard_normal((4, 3, SAMPLES)).astype(np.float32)
            file.create_dataset("data/b", data=block, **storage)
            file["data_format/dimension_order"] = "CW"
        rows = [("b$0,:3,:60", "ENZ"), ("b$1,:1,:50", "Z"), ("b$2,:2,:60", "ZN"), ("b$3,:1,:60", "E")]
        text = "".join(f'"{name}",100,{order}\n' for name, order in rows)
        (tmp_path / "metadata.csv").write_text("trace_name,trace_sampling_rate_hz,trace_component_order\n" + text)
        compare_with_seisbench(tmp_path, tmp_path / f"cache{len(storage)}", 4)


def write_links(folder, kind: str):
    """Three traces by way of links, to files that hold other things first."""
    rng = np.random.default_rng(2)
    with h5py.File(folder / "other.hdf5", "w") as other, h5py.File(folder / "waveforms.hdf5", "w") as file:
        file["data/before"] = rng.standard_normal((3, 4 * SAMPLES)).astype(np.float32)
        for k in range(3):
            data, name = rng.standard_normal((3, SAMPLES)).astype(np.float32), f"data/t{k}"
            other.create_dataset(f"deep/t{k}", data=data, compression="gzip" if k == 2 else None)
            if kind == "external":
                file[name] = h5py.ExternalLink("other.hdf5", f"deep/t{k}")
            elif kind == "virtual":
                view = h5py.VirtualLayout((3, SAMPLES), "f4")
                view[:] = h5py.VirtualSource("other.hdf5", f"deep/t{k}", (3, SAMPLES))
                file.create_virtual_dataset(name, view)
            elif kind == "raw":
                data.tofile(folder / f"t{k}.bin")
                file.create_dataset(name, data.shape, "f4", external=[(f"{folder}/t{k}.bin", 0, data.nbytes)])
            else:
                file[f"store/t{k}"] = data
                file[name] = h5py.SoftLink(f"/store/t{k}")
        file["data_format/component_order"] = "ZNE"
    names = "".join(f"t{k},100\n" for k in range(3))
    (folder / "metadata.csv").write_text("trace_name,trace_sampling_rate_hz\nbefore,100\n" + names)


@pytest.mark.parametrize("kind", ["external", "virtual", "raw", "soft"])
def test_links_are_followed_as_far_as_they_lead(tmp_path, monkeypatch, kind, caplog):
    write_links(tmp_path, kind)
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path / "set")
    text = (tmp_path / "metadata.csv").read_text()
    (tmp_path / "metadata.csv").write_text(text.replace("before,100\n", ""))
    compare_with_seisbench(tmp_path, tmp_path / "cache", 3)
    if kind == "soft":
        return
    gone = tmp_path / ("t1.bin" if kind == "raw" else "other.hdf5")
    gone.rename(f"{gone}.away")
    (tmp_path / "metadata.csv").write_text(text)
    table = load_index(str(tmp_path), "set", str(tmp_path / "cache"), scan=True)
    lost = 1 if kind == "raw" else 3
    assert (len(table), dropped_rows(table)) == (4 - lost, {LINK: lost})
    assert gone.name in caplog.text
    os.rename(f"{gone}.away", gone)
    assert len(load_index(str(tmp_path), "set", str(tmp_path / "cache"))) == 4, "what was not there is looked for again"


def test_a_file_that_is_linked_to_and_changes_is_indexed_again(tmp_path, caplog):
    caplog.set_level("INFO")
    write_links(tmp_path, "external")
    for expected in (4, 4):
        assert len(load_index(str(tmp_path), "set", str(tmp_path / "cache"))) == expected
    assert caplog.text.count("indexed 4 traces") == 1
    with h5py.File(tmp_path / "other.hdf5", "a") as file:
        del file["deep/t1"]
    table = load_index(str(tmp_path), "set", str(tmp_path / "cache"))
    assert (len(table), dropped_rows(table)) == (3, {LINK: 1})


def test_an_object_store_follows_no_links_and_says_so(tmp_path):
    for kind, reason in (("external", LINK), ("virtual", UNSUPPORTED), ("raw", UNSUPPORTED)):
        write_links(tmp_path, kind)
        place = Location(f"memory://{tmp_path.name}/{kind}")
        for file in ("metadata.csv", "waveforms.hdf5", "other.hdf5"):
            (place / file).write((tmp_path / file).read_bytes())
        table = load_index(str(place), "set", str(tmp_path / "cache"))
        assert (len(table), dropped_rows(table)) == (1, {reason: 3}), kind


def test_a_file_of_another_layout_is_named_with_what_it_holds(tmp_path):
    write_names(tmp_path, ["one"])
    with h5py.File(tmp_path / "waveforms.hdf5", "w") as file:
        file["earthquake/local"] = np.ones((3, 60))
    with pytest.raises(
        ValueError, match=r"waveforms\.hdf5: no group 'data' \(it holds earthquake\).*WaveformDataWriter"
    ):
        load_index(str(tmp_path), "set", str(tmp_path / "cache"))
