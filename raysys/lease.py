"""One driver at a time writes into the folder of a run or sweep."""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from raysys.location import Location

log = logging.getLogger(__name__)
LEASE = "driver.json"
"""In the folder: who writes there, renewed while it does."""
RENEW_S = 5.0
STALE_S = 45.0
"""Without a renewal for so long a driver on another machine counts as dead."""


@contextlib.contextmanager
def hold(run: Location) -> Iterator[None]:
    """Holds the folder of a run while the block runs; another driver that tries to is refused.

    A driver that was killed leaves its lease behind: on the same machine it is taken over at once, from another one
    when it has not been renewed for `STALE_S`. Who loses the folder all the same, since it was stopped that long, is
    interrupted.

    Raises:
        ValueError: another driver holds the folder.
    """
    mine = _me()
    _take(run, mine)
    ended, lost = threading.Event(), threading.Event()
    thread = threading.Thread(target=_renew, args=(run, mine, ended, lost), name="lease", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if lost.is_set():
            raise ValueError(_taken(run, _read(run) or {})) from None
        raise
    finally:
        ended.set()
        thread.join(timeout=2 * RENEW_S)  # a storage that does not answer holds nobody up
        _release(run, mine)


def _me() -> dict[str, Any]:
    return {
        "id": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "time": time.time(),
    }


def _machine() -> str:
    """What tells the processes of this machine, or of this container, from those with the same number elsewhere."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


def _take(run: Location, mine: dict[str, Any]) -> None:
    """Writes the lease, once nobody else holds one."""
    while (other := _read(run)) is not None:
        _wait_until_dead(run, other)
        if _read(run) in (other, None):
            log.warning("%s: its driver (%s) is gone; this one goes on", run, _who(other))
            break
    else:
        if _create(run, mine):
            return
    (run / LEASE).write_json(mine)
    time.sleep(0.5)  # of two that begin at the same moment the later one stays
    if (now := _read(run) or {}).get("id") != mine["id"]:
        raise ValueError(_taken(run, now))


def _create(run: Location, mine: dict[str, Any]) -> bool:
    """Writes the lease where a file system can do that only if there is none; returns whether it can.

    Raises:
        ValueError: another driver has been quicker.
    """
    if not run.is_local:
        return False
    if (run / LEASE).exists() and _read(run) is None:  # half a lease
        return False
    unlinked = run / f".{LEASE}.{mine['id']}"
    unlinked.write_json(mine)
    try:
        os.link(unlinked.path, (run / LEASE).path)
    except FileExistsError:
        raise ValueError(_taken(run, _read(run) or {})) from None
    except OSError:  # no links
        return False
    finally:
        os.unlink(unlinked.path)
    return True


def _wait_until_dead(run: Location, other: dict[str, Any]) -> None:
    """Returns when the holder of a lease is dead.

    Raises:
        ValueError: it lives.
    """
    if other.get("machine") == _machine():
        if _lives(other):
            raise ValueError(_taken(run, other))
        return
    end = time.monotonic() + STALE_S - (time.time() - other.get("time", 0.0))
    if end > time.monotonic():
        text = "%s: its driver (%s) was there %.0f s ago; waiting up to %.0f s whether it still lives"
        log.info(text, run, _who(other), time.time() - other["time"], min(STALE_S, end - time.monotonic()))
    end = min(end, time.monotonic() + STALE_S)  # whatever its clock says
    while time.monotonic() < end:
        time.sleep(min(RENEW_S / 2, max(0.0, end - time.monotonic())))
        now = _read(run)
        if now is None:
            return
        if (now["id"], now["time"]) != (other["id"], other["time"]):
            raise ValueError(_taken(run, now))


def _lives(other: dict[str, Any]) -> bool:
    """Whether a process of this machine still runs, and is no later one with the same number."""
    started = _started(other["pid"])
    return started is not None and started == other["started"]


def _started(pid: int) -> str | None:
    """When a process of this machine began, as the system counts; None where it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *fields = file.read().rpartition(")")[2].split()
        return None if state == "Z" else fields[18]
    except ProcessLookupError:
        return None
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return None
    try:  # no Linux
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def _renew(run: Location, mine: dict[str, Any], ended: threading.Event, lost: threading.Event) -> None:
    """Writes the time into the lease until the end; interrupts the main thread if somebody else has taken it."""
    while not ended.wait(RENEW_S):
        try:
            now = _read(run)
            if now is not None and now["id"] != mine["id"]:
                log.error("%s was taken over by another driver (%s): this one stops", run, _who(now))
                lost.set()
                os.kill(os.getpid(), signal.SIGINT)
                return
            (run / LEASE).write_json(mine | {"time": time.time()})
        except Exception as error:  # a storage that does not answer; the next renewal may pass
            log.warning("%s could not be renewed: %s", run / LEASE, error)


def _release(run: Location, mine: dict[str, Any]) -> None:
    with contextlib.suppress(Exception):
        if (_read(run) or {}).get("id") == mine["id"]:
            (run / LEASE).remove()
            if run.is_local:
                os.rmdir(run.path)  # of a start that was refused; one that holds anything stays


def _read(run: Location) -> dict[str, Any] | None:
    """The lease in a folder, or None where there is none, or half of one."""
    run.refresh()
    try:
        lease = (run / LEASE).read_json()
    except (FileNotFoundError, ValueError):
        return None
    return lease if isinstance(lease, dict) and {"id", "time"} <= set(lease) else None


def _who(other: dict[str, Any]) -> str:
    return f"process {other.get('pid', '?')} on {other.get('host', 'another machine')}"


def _taken(run: Location, other: dict[str, Any]) -> str:
    return (
        f"{run} is written by another driver ({_who(other)}; {LEASE} there): wait for it or stop it, or give this run "
        "another --name"
    )
