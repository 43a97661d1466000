"""The console log of a run is kept beside its metrics."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from raysys import console
from raysys.console import CONSOLE, MOST_BYTES, mirrored
from raysys.location import Location

ROOT = Path(__file__).parents[1]


@pytest.fixture(params=["disk", "object store"])
def place(request, tmp_path):
    """A folder of a run; files of an object store are written whole."""
    return Location(tmp_path / "run" if request.param == "disk" else "memory://console/run").make_folder()


@pytest.fixture(autouse=True)
def forgotten():
    yield
    folder = Location("memory://console")
    if folder.exists():
        folder.remove()


def kept(place: Location) -> str:
    return (place / CONSOLE).read().decode()


def test_what_is_printed_and_logged_is_kept_over_restarts(place, capsys):
    for start in ("first", "second"):
        with mirrored() as mirror:
            print("before the run is there,", start)
            mirror.into(place / CONSOLE)
            print("\x1b[36m(RayTrainWorker pid=7)\x1b[0m step 3", file=sys.stderr)
            print("without an end", end="")
    lines = kept(place).splitlines()
    told = [
        ["before the run is there, " + n, "(RayTrainWorker pid=7) step 3", "without an end"]
        for n in ("first", "second")
    ]
    assert [lines[1:4], lines[5:]] == told
    assert all(line.startswith("--- 20") for line in (lines[0], lines[4]))
    seen = capsys.readouterr()
    assert seen.out.count("before the run") == 2, "and printed as ever"
    assert seen.err.count("(RayTrainWorker pid=7)") == 2


def test_credentials_are_masked_also_where_print_shows_them(place, capsys):
    with mirrored() as mirror:
        mirror.into(place / CONSOLE)
        print("s3://AKIA:SECRET@bucket/x --token abcdef")
        print("--password", end="")
        print("=hunter2 end")
    text = kept(place)
    assert not any(secret in text for secret in ("SECRET", "abcdef", "hunter2"))
    assert "***" in text


def test_how_a_run_ended_is_kept(place):
    def fails():
        with mirrored() as mirror:
            mirror.into(place / CONSOLE)
            raise ValueError("bad data at s3://AKIA:SECRET@bucket")

    with pytest.raises(ValueError, match="bad data"):
        fails()
    assert "ValueError: bad data at s3://***@bucket" in kept(place)
    assert not isinstance(sys.stdout, console._Tee)


def test_a_start_that_was_refused_leaves_no_file(place):
    with mirrored():
        print("refused")
    assert not (place / CONSOLE).exists()


def test_it_is_written_while_the_run_goes_on_and_not_all_the_time(place, monkeypatch):
    writes = []
    whole = console.Mirror._append
    monkeypatch.setattr(
        console.Mirror, "_append", lambda self, new: (writes.append(time.monotonic()), whole(self, new))
    )
    monkeypatch.setattr(console, "EVERY_S", 0.3)
    with mirrored() as mirror:
        mirror.into(place / CONSOLE)
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            print("line")
            time.sleep(0.01)
        assert "line" in kept(place)
        assert 2 <= len(writes) <= 4
    assert kept(place).count("line\n") >= 20


def test_a_storage_that_fails_costs_one_warning_and_no_line(place, monkeypatch, caplog):
    answers, whole = iter([OSError("no space left")] * 3), console.Mirror._append

    def append(self, new):
        if error := next(answers, None):
            raise error
        whole(self, new)

    monkeypatch.setattr(console.Mirror, "_append", append)
    monkeypatch.setattr(console, "EVERY_S", 0.05)
    with mirrored() as mirror:
        mirror.into(place / CONSOLE)
        print("kept")
        time.sleep(0.5)
    assert kept(place).count("kept\n") == 1
    assert caplog.text.count("could not be written, the run goes on: no space left") == 1


def test_a_storage_that_hangs_holds_nobody_up(place, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(console.Mirror, "_append", lambda self, new: release.wait(20))
    monkeypatch.setattr(console, "_END_S", 0.2)
    begin = time.monotonic()
    with mirrored() as mirror:
        mirror.into(place / CONSOLE)
        print("line")
    release.set()
    assert time.monotonic() - begin < 5


def test_an_object_keeps_the_newest_lines(monkeypatch):
    place = Location("memory://console/run").make_folder()
    monkeypatch.setattr(console, "MOST_BYTES", 1000)
    assert MOST_BYTES > 1 << 20
    for _ in range(3):
        with mirrored() as mirror:
            mirror.into(place / CONSOLE)
            for i in range(50):
                print(f"line {i}")
    lines = kept(place).splitlines()
    assert lines[0] == "[earlier lines are cut]"
    assert lines[-1] == "line 49"
    assert len(kept(place)) < 1100


def test_lines_of_the_log_come_through_the_handler_of_a_job(tmp_path):
    program = (
        "import logging, sys\nfrom raysys.console import *\nfrom raysys.location import Location\nconfigure_logging()\n"
        "with mirrored() as mirror:\n    mirror.into(Location(sys.argv[1]))\n    logging.getLogger('raysys').info('said')\n"
        "logging.getLogger('raysys').info('after')\nassert 'ray' not in sys.modules\n"
    )
    (tmp_path / "job.py").write_text(program)
    command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path / CONSOLE), "--token", "abcdef"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert done.stderr == "INFO raysys: said\nINFO raysys: after\n"
    first, *others = (tmp_path / CONSOLE).read_text().splitlines()
    assert first.startswith("--- 20")
    assert first.endswith("--token ***")
    assert others == ["INFO raysys: said"]
