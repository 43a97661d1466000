"""Downloads against a local server in place of the repository: they go on where they broke off, and are verified."""

import fcntl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from raysys.config import DataConfig
from raysys.data import download as module
from raysys.data.download import download

BLOCK = module._BLOCK


class Repository:
    """An HTTP server for a folder, with byte ranges; it breaks its first transfers off after so many bytes (`breaks`)."""

    def __init__(self, folder: Path):
        self.folder, self.breaks, self.ranges, self.log = folder, [], True, []
        repository = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(200)
                self.end_headers()

            def do_GET(self):
                repository.serve(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def serve(self, request) -> None:
        path = self.folder / request.path.lstrip("/")
        asked = request.headers.get("Range")
        self.log.append((path.name, asked))
        if not path.is_file():
            request.send_response(404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        content, tag = path.read_bytes(), f'"{path.stat().st_mtime_ns}"'
        start = int(asked.split("=")[1].rstrip("-")) if asked and self.ranges else 0
        if start and request.headers.get("If-Range", tag) != tag:
            start = 0
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(content) - start))
        request.send_header("ETag", tag)
        request.end_headers()
        content = content[start:]
        if self.breaks and len(content) > 1_000_000:
            content = content[: self.breaks.pop(0)]
        request.wfile.write(content)


@pytest.fixture
def repository(miniatures, monkeypatch, tmp_path):
    """The miniatures behind SeisBench's own addresses; only the root address is replaced."""
    monkeypatch.setenv("SEISBENCH_CACHE_ROOT", str(tmp_path / "seisbench"))
    import seisbench

    server = Repository(miniatures)
    monkeypatch.setattr(seisbench, "remote_data_root", server.url)
    monkeypatch.setattr(module, "_wait_s", lambda attempt: 0.01)
    yield server
    server.server.shutdown()


def config(tmp_path, *names) -> DataConfig:
    return DataConfig(root=str(tmp_path / "data"), datasets=names, cache=str(tmp_path / "cache"))


def same(folder: Path, source: Path) -> bool:
    files = [path.name for path in source.glob("*.[ch][sd]*")]
    return bool(files) and all((folder / name).read_bytes() == (source / name).read_bytes() for name in files)


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(repository, miniatures, tmp_path):
    repository.breaks = [BLOCK, 2 * BLOCK, BLOCK + 100]  # of what is read at a time, less than one block is lost
    [folder] = download(config(tmp_path, "iquique"))
    assert same(folder, miniatures / "iquique")
    ranges = [asked for name, asked in repository.log if name == "waveforms.hdf5"]
    assert ranges == [None, *(f"bytes={n * BLOCK}-" for n in (1, 3, 4))]
    assert not list(folder.glob("*.part*"))
    repository.log.clear()
    download(config(tmp_path, "Iquique"))
    assert [name for name, _ in repository.log] == ["chunks"], "what is whole is not fetched again"


def test_a_killed_download_goes_on_in_the_next_call(repository, miniatures, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ATTEMPTS", 2)
    repository.breaks = [3 * BLOCK, 0, 0]
    with pytest.raises(OSError, match=r"broke off 2 times.*the same command goes on from there"):
        download(config(tmp_path, "Iquique"))
    part = tmp_path / "data/iquique/waveforms.hdf5.part"
    assert part.stat().st_size == 3 * BLOCK
    [folder] = download(config(tmp_path, "Iquique"))
    assert same(folder, miniatures / "iquique")
    assert ("waveforms.hdf5", f"bytes={3 * BLOCK}-") in repository.log


def test_a_part_of_another_version_or_a_server_without_ranges_starts_over(repository, miniatures, tmp_path):
    folder = tmp_path / "data/iquique"
    folder.mkdir(parents=True)
    (folder / "waveforms.hdf5.part").write_bytes(b"x" * 5000)
    (folder / "waveforms.hdf5.part.etag").write_text('"old"')
    download(config(tmp_path, "Iquique"))
    assert same(folder, miniatures / "iquique")
    repository.ranges, repository.breaks = False, [BLOCK, BLOCK]
    [other] = download(config(tmp_path / "other", "Iquique"))
    assert same(other, miniatures / "iquique")


def test_all_chunks_of_a_chunked_set_come(repository, miniatures, tmp_path):
    [folder] = download(config(tmp_path, "MLAAPDE"))
    assert same(folder, miniatures / "mlaapde")
    assert len(list(folder.glob("waveforms_*.hdf5"))) == 4
    assert (folder / "chunks").read_text().split() == (miniatures / "mlaapde/chunks").read_text().split()


def test_what_cannot_be_fetched_is_one_clear_error(repository, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'STAED' is not one of ETHZ"):
        download(config(tmp_path, "STAED"))
    with pytest.raises(ValueError, match=r"data\.root=s3://b/x: downloads need a local folder"):
        download(DataConfig(root="s3://b/x", datasets=("ETHZ",)))
    repository.folder = tmp_path
    with pytest.raises(OSError, match=r"iquique/metadata\.csv: status 404"):
        download(config(tmp_path, "Iquique"))
    folder = tmp_path / "data/iquique"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process is downloading"):
            download(config(tmp_path, "Iquique"))


def test_a_file_that_does_not_hold_its_traces_is_not_accepted(repository, miniatures, tmp_path):
    broken = tmp_path / "repository"
    (broken / "iquique").mkdir(parents=True)
    for path in (miniatures / "iquique").glob("*.[ch][sd]*"):
        content = path.read_bytes()
        (broken / "iquique" / path.name).write_bytes(
            content[: len(content) // 2] if path.suffix == ".hdf5" else content
        )
    repository.folder = broken
    with pytest.raises(ValueError, match=r"waveforms\.hdf5: unreadable HDF5 file.*fetch it again"):
        download(config(tmp_path, "Iquique"))
