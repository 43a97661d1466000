"""One driver in a folder at a time: who is refused, who takes over, and when."""

import json
import logging
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from raysys import lease
from raysys.lease import LEASE, hold
from raysys.location import Location


@pytest.fixture(params=["disk", "memory"])
def run(request, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.1)
    monkeypatch.setattr(lease, "STALE_S", 1.0)
    return Location(tmp_path / "run" if request.param == "disk" else f"memory://{tmp_path.name}/run")


def of_another_machine(run: Location, **other) -> dict:
    content = lease._me() | {"id": "x", "machine": "far", "host": "far", "pid": 7} | other
    (run / LEASE).write_json(content)
    return content


def test_a_folder_is_held_once_and_given_back(run):
    for _ in range(2):
        with hold(run):
            held = (run / LEASE).read_json()
            assert set(held) == {"id", "host", "machine", "pid", "started", "time"}
            with pytest.raises(ValueError, match=r"run is written by another driver \(process \d+ on .*another --name"):
                hold(run).__enter__()
            time.sleep(0.3)
            assert (run / LEASE).read_json()["time"] > held["time"], "renewed"
        assert not (run / LEASE).exists()
    assert not list(run.glob(".*"))
    with pytest.raises(KeyError), hold(run):
        raise KeyError
    assert not (run / LEASE).exists()


def test_of_many_at_the_same_moment_one_gets_it(run):
    got, gate, end = [], threading.Barrier(6), threading.Barrier(6)

    def begin(_):
        gate.wait()
        try:
            with hold(run):
                got.append(1)
                end.wait()
        except ValueError:
            end.wait()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(begin, range(6)))
    assert got == [1]


def test_the_lease_of_a_process_that_was_killed_here_is_taken_over_at_once(tmp_path, caplog):
    program = f"from raysys.lease import hold; from raysys.location import Location; import time\nwith hold(Location({str(tmp_path)!r})): print(1, flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    holder.stdout.readline()
    with pytest.raises(ValueError, match=f"process {holder.pid} on"):
        hold(Location(tmp_path)).__enter__()
    holder.kill()
    holder.wait()
    start = time.monotonic()
    with caplog.at_level(logging.WARNING), hold(Location(tmp_path)):
        assert time.monotonic() - start < 3
    assert f"process {holder.pid} on" in caplog.text


def test_a_later_process_with_the_same_number_is_not_taken_for_the_holder(run):
    of_another_machine(run, machine=lease._machine(), pid=lease._me()["pid"], started="1")
    with hold(run):
        pass


@pytest.mark.parametrize(("age", "waits"), [(100.0, False), (0.0, True), (-3600.0, True)])
def test_a_lease_that_is_not_renewed_elsewhere_is_taken_over(run, age, waits, caplog):
    of_another_machine(run, time=time.time() - age)
    start = time.monotonic()
    with caplog.at_level(logging.INFO), hold(run):
        assert time.monotonic() - start < 20, "not an hour, whatever the other clock says"
    assert ("waiting up to" in caplog.text) == waits


def test_a_lease_that_is_renewed_elsewhere_refuses(run):
    def renew():
        time.sleep(0.3)
        of_another_machine(run)

    of_another_machine(run)
    threading.Thread(target=renew).start()
    with pytest.raises(ValueError, match="process 7 on far"):
        hold(run).__enter__()
    assert (run / LEASE).read_json()["id"] == "x"


def test_a_driver_that_lost_its_folder_is_interrupted_and_leaves_it(run):
    with pytest.raises(ValueError, match="process 7 on far"), hold(run):  # noqa: PT012 - it is interrupted in its sleep
        of_another_machine(run)
        time.sleep(5)
    assert (run / LEASE).read_json()["id"] == "x"


def test_a_broken_lease_and_a_storage_that_fails_hold_nobody_up(run, monkeypatch, caplog):
    (run / LEASE).write(json.dumps(["half"]))
    read = lease._read
    with hold(run):
        monkeypatch.setattr(lease, "_read", lambda _: 1 / 0)
        time.sleep(0.3)
        monkeypatch.setattr(lease, "_read", read)
    assert "could not be renewed" in caplog.text
    assert not (run / LEASE).exists()


def test_a_start_that_was_refused_leaves_no_folder_and_one_that_wrote_keeps_it(tmp_path):
    with pytest.raises(ValueError, match="bad data"), hold(Location(tmp_path / "refused")):
        raise ValueError("bad data")
    assert not (tmp_path / "refused").exists()
    with hold(Location(tmp_path / "begun")):
        (tmp_path / "begun/config.json").write_text("{}")
    assert [file.name for file in (tmp_path / "begun").iterdir()] == ["config.json"]
