"""SIGTERM on the driver of a run. tests/test_submission.py stops one in a cluster."""

import signal
import threading

import pytest

from raysys.train import stop as module
from raysys.train.stop import leaves, stoppable


@pytest.fixture
def notes(monkeypatch) -> set[str]:
    """Those that lie in the cluster."""
    left: set[str] = set()
    monkeypatch.setattr(module, "leave_note", left.add)
    monkeypatch.setattr(module, "has_note", left.__contains__)
    monkeypatch.setattr(module, "drop_note", left.discard)
    return left


def term() -> None:
    signal.raise_signal(signal.SIGTERM)
    for thread in threading.enumerate():
        if thread.name == "stop":
            thread.join()


def test_without_workers_it_ends_the_program(notes):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"), stoppable():
        term()
    assert signal.getsignal(signal.SIGTERM) == before
    assert not notes


def test_workers_are_told_and_the_second_time_ends_the_program(notes, monkeypatch, caplog):
    monkeypatch.setattr(module, "broadcast_from_rank_zero", lambda value: value)
    with stoppable() as stop:
        stop.training = True
        stop.leave()  # nobody has asked
        poll = leaves(lambda: False, stop.note, rank=0)
        assert not poll()
        term()
        assert stop.asked
        assert poll()
        assert not leaves(lambda: False, stop.note, rank=1)(), "who asks is rank 0"
        assert "told to stop" in caplog.text
        for end in (stop.leave, term):
            with pytest.raises(SystemExit, match="143"):
                end()
    assert not notes, "another run of this cluster sees none"


def test_workers_that_leave_anyway_ask_nobody():
    assert leaves(lambda: True, "note", rank=0)()
    poll = object()
    assert leaves(poll, None, rank=0) is poll


def test_another_thread_than_the_main_one_changes_no_signal(notes):
    before, seen = signal.getsignal(signal.SIGTERM), []

    def inside():
        with stoppable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]
