"""Memory that was freed is used again."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, numpy
from raysys.data.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.empty(64 << 20, numpy.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh = [faults(), faults()]
keep_freed_memory()
print(*fresh, faults(), faults(), faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_pages_of_a_freed_array_are_not_cleared_again():
    printed = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, timeout=60)
    first, second, third, *again = map(int, printed.stdout.split())
    assert min(first, second, third) > 16, "every array of a process as it starts gets new pages"
    assert max(again) < 8, "and none once freed pages are kept"
