"""The lists of planted faults fit the code as it is."""

import ast

import pytest

from tests.mutants.__main__ import ROOT, Fault, nearest_tests, read_faults


def test_every_fault_changes_one_place_of_a_file_that_still_parses():
    faults = read_faults()
    for fault in faults:
        sound = (ROOT / fault.file).read_text()
        planted = fault.planted(sound)
        assert planted != sound, fault
        if fault.file.endswith(".py"):
            ast.parse(planted)
    assert len(set(faults)) == len(faults) >= 200


def test_a_text_that_stands_twice_or_nowhere_is_refused():
    for text in ("a a", "b"):
        with pytest.raises(ValueError, match="mend the list"):
            Fault("file.py", "a", "c").planted(text)


def test_the_nearest_tests_run_first():
    assert nearest_tests("raysys/data/plan.py") == ["tests/data/test_plan.py", "tests/data", "tests"]
    assert nearest_tests("model/ops/mlstm_mixer/fused.py") == [
        "tests/model/ops/test_mlstm_mixer.py",
        "tests/model/ops",
        "tests",
    ]
    assert nearest_tests("raysys/presets.py") == ["tests/test_presets.py", "tests"]
