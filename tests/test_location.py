"""Paths and URLs behave alike, and a file is written whole or not at all."""

import os
import pickle

import pytest

from raysys.location import Location


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    return Location(tmp_path / "a" if request.param == "disk" else f"memory://{tmp_path.name}/a")


def test_what_is_written_is_found_and_read_back(folder):
    (folder / "b.json").write_json({"x": [1, 2]})
    (folder / "sub/c.txt").write("text")
    assert (folder / "b.json").read_json() == {"x": [1, 2]}
    assert (folder / "sub" / "c.txt").read() == b"text"
    assert [child.name for child in folder.children()] == ["b.json", "sub"]
    assert folder.glob("*.json") == [folder / "b.json"]
    assert pickle.loads(pickle.dumps(folder / "b.json")).read_json() == {"x": [1, 2]}
    assert folder.folders() == [folder / "sub"]
    assert (folder / "sub/c.txt").info()["size"] == (folder / "sub/c.txt").size() == 4
    (folder / "sub").remove()
    assert [child.name for child in folder.children()] == ["b.json"]


@pytest.mark.parametrize("name", ["pnw[v2]", "what?", "all*", "a::b", "ü (2020) #1 %41", "[!a]"])
def test_names_are_taken_literally(tmp_path, name):
    for root in (str(tmp_path), *([f"memory://{tmp_path.name}"] if "::" not in name else [])):
        folder = Location(root) / name
        (folder / "metadata_1.csv").write("x")
        (folder / "other.csv").write("x")
        for other in ("pnwv", "allx", "whatx"):
            (Location(root) / other / "metadata_2.csv").write("x")
        assert folder.glob("metadata*.csv") == [folder / "metadata_1.csv"]
        assert folder in Location(root).folders()
        assert (folder / "metadata_1.csv").glob("metadata*.csv") == (folder / "none").glob("*") == []


def test_local_paths_are_absolute_and_written_in_one_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    wanted = f"{tmp_path}/data"
    ways = ("data", "data/", "./data//", "./x/../data", f"file://{wanted}", f"/{wanted}")
    assert all(str(Location(text)) == wanted for text in ways)
    assert str(Location("~/data")) == f"{tmp_path}/home/data"
    assert Location("data") == Location(f"{wanted}/")
    assert str(Location("s3://bucket/runs/") / "x") == "s3://bucket/runs/x"


@pytest.mark.parametrize("url", ["s3://bucket/runs/", "s3://bucket//runs", "s3://bucket/runs//", "s3://bucket/runs"])
def test_a_url_is_written_in_one_way(url):
    """An object store takes "runs//x" and "runs/x" for two objects."""
    assert str(Location(url) / "x") == str(Location(f"{url}/x/")) == "s3://bucket/runs/x"
    assert (Location(url) / "x").parent == Location(url)
    assert Location("/a").parent == Location("/")
    assert str(Location("https://host/a//b/")) == "https://host/a//b", "a server may mean both"


def test_a_copy_on_disk_lives_as_long_as_it_is_needed(folder):
    (folder / "sub/c.txt").write("text")
    for place, file in ((folder, "sub/c.txt"), (folder / "sub", "c.txt")):
        with place.on_disk() as path:
            assert (path / file).read_text() == "text"
        assert path.exists() == folder.is_local
    with (folder / "sub/c.txt").on_disk() as path:
        assert path.read_text() == "text"


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    file = Location(tmp_path / "state.json")
    file.write("before")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"state\.json: No space left") as error:
        file.write("after")
    assert error.value.errno == 28
    assert file.read() == b"before"
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_link_to_a_folder_is_a_folder(tmp_path):
    """Data sets are often linked from the disk where they lie."""
    (tmp_path / "far/etna").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/etna").symlink_to(tmp_path / "far/etna")
    (tmp_path / "data/gone").symlink_to(tmp_path / "far/nothing")
    (tmp_path / "data/file").write_text("")
    assert [folder.name for folder in Location(tmp_path / "data").folders()] == ["etna"]
