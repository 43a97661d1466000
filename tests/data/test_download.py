"""Downloads against a local server in place of the repository: they go on where they broke off, and are verified."""

import fcntl
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from raysys.config import DataConfig
from raysys.data import download as module
from raysys.data.download import download

BLOCK = module._BLOCK


class Repository:
    """An HTTP server for a folder, with byte ranges.

    It breaks its first transfers off after so many bytes (`breaks`), and answers its first requests with `busy`.
    """

    def __init__(self, folder: Path):
        self.folder, self.breaks, self.ranges, self.log, self.busy = folder, [], True, [], []
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
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def serve(self, request) -> None:
        path = self.folder / request.path.lstrip("/")
        asked = request.headers.get("Range")
        self.log.append((path.name, asked))
        if self.busy or not path.is_file():
            request.send_response(self.busy.pop(0) if self.busy else 404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        content, tag = path.read_bytes(), f'"{path.stat().st_mtime_ns}"'
        start = int(asked.split("=")[1].rstrip("-")) if asked and self.ranges else 0
        if start and request.headers.get("If-Range", tag) != tag:
            start = 0
        if start >= len(content):
            content, start = b"", 0
            request.send_response(416)
        else:
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


def test_a_part_with_nothing_after_it_starts_over(repository, miniatures, tmp_path):
    source, folder = miniatures / "iquique/waveforms.hdf5", tmp_path / "data/iquique"
    folder.mkdir(parents=True)
    (folder / "waveforms.hdf5.part").write_bytes(b"x" * source.stat().st_size)
    download(config(tmp_path, "Iquique"))
    assert same(folder, miniatures / "iquique")
    size = source.stat().st_size
    assert [asked for name, asked in repository.log if name == source.name] == [f"bytes={size}-", None]


def test_breaks_count_only_while_nothing_comes(repository, miniatures, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ATTEMPTS", 2)
    repository.breaks = [BLOCK, 0, BLOCK, 0, 2 * BLOCK]
    [folder] = download(config(tmp_path, "Iquique"))
    assert same(folder, miniatures / "iquique")


@pytest.mark.parametrize("status", [429, 503, 500])
def test_a_busy_server_is_asked_six_times(repository, miniatures, tmp_path, status):
    repository.busy = [status] * 5
    [folder] = download(config(tmp_path, "Iquique"))
    assert same(folder, miniatures / "iquique")
    repository.busy = [status] * 6
    with pytest.raises(OSError, match=rf"no answer in 6 attempts \(status {status}\)"):
        download(config(tmp_path / "other", "Iquique"))


def test_waits_double_up_to_half_a_minute():
    assert [module._wait_s(attempt) for attempt in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_the_ledger_knows_what_came_and_what_is_gone_comes_again(repository, miniatures, tmp_path):
    [folder] = download(config(tmp_path, "Iquique", "IQUIQUE"))
    files = ["metadata.csv", "waveforms.hdf5"]
    ledger = json.loads((folder / "download.json").read_text())
    assert {name: (e["size"], e["etag"], e["url"]) for name, e in ledger.items()} == {
        name: (path.stat().st_size, f'"{path.stat().st_mtime_ns}"', f"{repository.url}iquique/{name}")
        for name, path in ((name, miniatures / "iquique" / name) for name in files)
    }
    assert [name for name, _ in repository.log] == ["chunks", *files]
    content = (folder / "metadata.csv").read_bytes()
    (folder / "metadata.csv").write_bytes(content[:-1])
    repository.log.clear()
    download(config(tmp_path, "Iquique"))
    assert [name for name, _ in repository.log] == ["chunks", "metadata.csv"]
    assert (folder / "metadata.csv").read_bytes() == content
    (folder / "download.json").unlink()
    repository.log.clear()
    download(config(tmp_path, "Iquique"))
    assert repository.log == [], "waveforms that somebody else brought are left alone"


def test_the_mirror_is_asked_where_the_repository_is_away(repository, monkeypatch):
    import seisbench

    monkeypatch.setattr(seisbench, "remote_data_root", "http://127.0.0.1:9/")
    monkeypatch.setattr(
        seisbench, "use_backup_repository", lambda: setattr(seisbench, "remote_data_root", repository.url)
    )
    assert module._repository("ETHZ").rstrip("/") == f"{repository.url}ethz"
    monkeypatch.setattr(
        seisbench, "use_backup_repository", lambda: setattr(seisbench, "remote_data_root", "http://127.0.0.1:9/")
    )
    seisbench.remote_data_root = "http://127.0.0.1:9/"
    with pytest.raises(OSError, match="ETHZ: neither SeisBench's repository nor its mirror answers"):
        module._repository("ETHZ")


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
