"""Data sets from SeisBench's repository to a folder: one process, resumable, verified.

SeisBench knows where its data sets lie and in which chunks; the transfer is done here, since a broken transfer of
a hundred gigabytes must go on where it stopped.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from raysys.config import DataConfig
from raysys.data.catalog import EIGHT
from raysys.data.index import load_index
from raysys.location import Location

log = logging.getLogger(__name__)

_ATTEMPTS = 6
_TIMEOUT_S = (10, 60)
_BLOCK = 1 << 16
"""Bytes read at a time: what may be lost when a connection breaks."""
_LEDGER = "download.json"
"""Size and ETag of each finished file."""


def download(config: DataConfig) -> list[Path]:
    """Returns the folders below `data.root` that hold the data sets of `data.datasets`, fetched where they are missing.

    Files come under another name until they are whole; a transfer that broke off goes on where it stopped. At the end
    every data set is indexed, which checks that each trace of its metadata lies in its waveform file.

    Raises:
        ValueError: a root that is no local folder, a name that is none of the eight, or files that do not fit together.
        OSError: another process downloads the same, the repository does not answer or lacks a file, or the disk is full.
    """
    root = Location(config.root)
    if not root.is_local:
        raise ValueError(f"data.root={config.root}: downloads need a local folder; jobs.prepare --out takes URLs")
    canonical = {name.lower(): name for name in EIGHT}
    names = [one for name in config.datasets for one in (EIGHT if name == "all8" else [name])]
    unknown = [name for name in names if name.lower() not in canonical]
    if unknown:
        raise ValueError(
            f"data.datasets: {unknown[0]!r} is not one of {', '.join(EIGHT)}; only these can be downloaded"
        )
    done = []
    for name in dict.fromkeys(canonical[name.lower()] for name in names):
        folder = Path(root.path) / name.lower()
        with _locked(folder):
            _fetch_dataset(name, folder)
        table = load_index(str(folder), name, config.cache, config.split_seed)
        log.info("%s: %d traces in %s, every one of them found in its file", name, len(table), folder)
        done.append(folder)
    return done


def _fetch_dataset(name: str, folder: Path) -> None:
    ledger = json.loads((folder / _LEDGER).read_text()) if (folder / _LEDGER).exists() else {}
    if not ledger and any(folder.glob("waveforms*.hdf5")):
        log.info("%s: %s holds waveforms already, nothing is fetched", name, folder)
        return
    root = _repository(name)
    if (chunk_list := folder / "chunks").exists():
        chunks = chunk_list.read_text().split()
    else:
        answer = _get(f"{root}/chunks", {})
        chunks = answer.text.split() if answer.ok else [""]
    for file in (
        f"{kind[0]}{chunk}{kind[1]}" for chunk in chunks for kind in (("metadata", ".csv"), ("waveforms", ".hdf5"))
    ):
        target = folder / file
        if file in ledger and target.exists() and target.stat().st_size == ledger[file]["size"]:
            continue
        ledger[file] = _fetch(f"{root}/{file}", target)
        Location(folder / _LEDGER).write_json(ledger)
        log.info("%s: %s, %.1f MB", name, file, ledger[file]["size"] / 1e6)
    if chunks != [""]:
        Location(chunk_list).write("\n".join(chunks) + "\n")


def _repository(name: str) -> str:
    """Address of a data set in the repository, or in its mirror where the repository does not answer."""
    os.environ.setdefault("SEISBENCH_CACHE_ROOT", str(Path("~/.cache/raysys/seisbench").expanduser()))
    import seisbench
    import seisbench.data  # takes seconds, and writes to the folder named above

    kind = getattr(seisbench.data, name)
    for mirror in (False, True):
        if mirror:
            seisbench.use_backup_repository()
        address = kind._remote_path()
        try:
            requests.head(f"{address}/metadata.csv", timeout=_TIMEOUT_S)
        except requests.RequestException as error:
            log.warning("%s: %s", address, error)
            continue
        return address
    raise OSError(f"{name}: neither SeisBench's repository nor its mirror answers ({address}). Check the network")


def _get(url: str, headers: dict[str, str]) -> requests.Response:
    """The answer to a request, tried several times while the server cannot be reached or says that it is busy."""
    for attempt in range(_ATTEMPTS):
        try:
            answer = requests.get(
                url, headers={"Accept-Encoding": "identity"} | headers, stream=True, timeout=_TIMEOUT_S
            )
            if answer.status_code < 500 and answer.status_code != 429:
                return answer
            said = f"status {answer.status_code}"
        except requests.RequestException as error:
            said = str(error)
        log.warning("%s: %s, attempt %d of %d", url, said, attempt + 1, _ATTEMPTS)
        time.sleep(_wait_s(attempt))
    raise OSError(f"{url}: no answer in {_ATTEMPTS} attempts ({said}). What was fetched is kept: try again later")


def _fetch(url: str, target: Path) -> dict:
    """Fetches one file to the end, however often the connection breaks; returns its size and ETag."""
    partial = target.with_name(target.name + ".part")
    tag_file = target.with_name(target.name + ".part.etag")
    failures = 0
    while failures < _ATTEMPTS:
        have = partial.stat().st_size if partial.exists() else 0
        tag = tag_file.read_text() if have and tag_file.exists() else ""
        answer = _get(url, {"Range": f"bytes={have}-"} | ({"If-Range": tag} if tag else {}) if have else {})
        if answer.status_code == 416:  # nothing after what there is: it is whole, or of another version
            have, total = 0, -1
            partial.unlink()
        elif not answer.ok:
            raise OSError(f"{url}: status {answer.status_code}. SeisBench's repository does not have this file")
        else:
            have = have if answer.status_code == 206 else 0
            total = have + int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else -1
            tag_file.write_text(answer.headers.get("ETag", ""))
            _append(answer, partial, have)
        size = partial.stat().st_size if partial.exists() else -1
        if total >= 0 and size == total:
            os.replace(partial, target)
            tag = tag_file.read_text()
            tag_file.unlink()
            return {"size": size, "etag": tag, "url": url}
        failures = 0 if size > have else failures + 1
        log.warning("%s: broke off after %d of %d bytes, going on", url, size, total)
        time.sleep(_wait_s(failures))
    raise OSError(
        f"{url}: broke off {_ATTEMPTS} times without a further byte. What was fetched is kept: the same command goes on from there"
    )


def _append(answer: requests.Response, partial: Path, have: int) -> None:
    """Writes the body of an answer behind the first `have` bytes; a broken connection leaves what came."""
    with open(partial, "r+b" if have else "wb") as stream:
        stream.seek(have)
        stream.truncate()
        try:
            for block in answer.iter_content(_BLOCK):
                stream.write(block)
        except requests.RequestException as error:
            log.warning("%s: %s", answer.url, error)


def _wait_s(attempt: int) -> float:
    return min(30.0, 0.5 * 2**attempt)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing to the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"{folder}: another process is downloading to it") from None
        yield
