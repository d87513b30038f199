"""Freed memory that stays: the kernel is asked for it once, not again and again."""

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource
import sys
import numpy as np
from core.memory import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(8_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_blocks_of_the_same_size_are_taken_from_the_kernel_once():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("give back", "keep")
    }
    assert faults["keep"] * 5 < faults["give back"]
