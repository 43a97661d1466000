"""A name becomes a folder: by class, by folder, by path, in the order asked for."""

import fsspec
import pytest

from raysys.data.catalog import EIGHT, folders, resolve


@pytest.fixture
def root(tmp_path):
    for file in (
        "stead/metadata.csv",
        "Iquique/metadata_2014.csv",
        "pnw/index.parquet",
        "own/metadata.csv",
        "empty/waveforms.hdf5",
        "metadata.csv",
    ):
        (tmp_path / "root" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / file).touch()
    (tmp_path / "elsewhere/Alps").mkdir(parents=True)
    (tmp_path / "elsewhere/Alps/metadata.csv").touch()
    return tmp_path / "root"


def test_a_data_set_is_a_folder_with_metadata_or_an_index(root):
    assert folders(str(root)) == {name.lower(): f"{root}/{name}" for name in ("Iquique", "own", "pnw", "stead")}
    assert folders(f"{root}/none") == {}


def test_names_are_resolved_in_the_order_asked_for(root):
    path = f"{root.parent}/elsewhere/Alps"
    assert list(resolve(("stead", "Own", "IQUIQUE", f"{path}/", "PNW", "STEAD"), str(root)).items()) == [
        ("STEAD", f"{root}/stead"),
        ("Own", f"{root}/own"),
        ("Iquique", f"{root}/Iquique"),
        ("Alps", path),
        ("PNW", f"{root}/pnw"),
    ]
    assert list(resolve(("all",), str(root))) == ["Iquique", "own", "PNW", "STEAD"]
    with pytest.raises(FileNotFoundError, match="data set ETHZ: no folder"):
        resolve(("all8",), str(root))


def test_a_root_on_an_object_store_gives_addresses_there():
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/corpus/stead/metadata.csv", b"trace_name\n")
    try:
        [(name, folder)] = resolve(("all",), "memory://corpus").items()
        assert name == "STEAD"
        assert folder.startswith("memory://")
        assert fsspec.open(f"{folder}/metadata.csv").open().read() == b"trace_name\n"
    finally:
        fs.rm("/corpus", recursive=True)


def test_the_facts_of_the_eight_are_those_of_their_documentation():
    assert [(f.name, f.rate_hz, f.num_traces, f.gigabytes) for f in EIGHT.values()] == [
        ("ETHZ", None, 36_743, 22),
        ("GEOFON", None, 275_000, 26),
        ("STEAD", 100, 1_270_000, 70),
        ("InstanceCounts", 100, 1_160_000, 160),
        ("MLAAPDE", 40, 1_900_000, 110),
        ("Iquique", 100, 13_400, 5),
        ("PNW", 100, 184_000, 63),
        ("OBST2024", 100, 60_000, 4),
    ]
    assert all(name == facts.name for name, facts in EIGHT.items())
