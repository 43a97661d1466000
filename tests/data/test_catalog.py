"""A name becomes a folder: by class, by folder, by path, in the order asked for."""

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

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


def test_two_folders_of_one_name_are_refused_and_one_folder_twice_is_one(root):
    twin = root.parent / "2020/Alps"
    twin.mkdir(parents=True)
    (twin / "metadata.csv").touch()
    first = f"{root.parent}/elsewhere/Alps"
    with pytest.raises(ValueError, match=rf"{first} and {twin} are two data sets of one name, 'Alps': give one"):
        resolve((first, str(twin)), str(root))
    assert list(resolve((first, f"{first}/", "own", f"{root}/own"), str(root)).values()) == [first, f"{root}/own"]
    (root / "ALPS").mkdir()
    (root / "ALPS/metadata.csv").touch()
    with pytest.raises(ValueError, match="two data sets of one name"):
        resolve(("alps", first), str(root))
    (root / "PNW").mkdir()
    (root / "PNW/metadata.csv").touch()
    with pytest.raises(ValueError, match=rf"{root}/PNW and {root}/pnw are two data sets"):
        folders(str(root))


def test_names_of_folders_may_hold_brackets_and_a_locked_folder_is_told(root, monkeypatch, caplog):
    (root / "pnw[v2]").mkdir()
    (root / "pnw[v2]/metadata_1.csv").touch()
    assert resolve(("pnw[v2]",), str(root)) == {"pnw[v2]": f"{root}/pnw[v2]"}
    listing = LocalFileSystem.ls

    def ls(fs, path, **options):
        if path.endswith("empty"):
            raise PermissionError(13, "Permission denied", path)
        return listing(fs, path, **options)

    monkeypatch.setattr(LocalFileSystem, "ls", ls)
    assert "own" in folders(str(root))
    assert f"{root}/empty: this user may not look into it" in caplog.text
