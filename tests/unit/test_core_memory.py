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


COUNT_ARENAS = """
import ctypes, os, re, sys, tempfile, threading
from core.memory import share_arenas_among_threads

if sys.argv[1] == "share":
    share_arenas_among_threads()
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.fopen.restype, libc.fclose.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
together = threading.Barrier(6)

def allocate():
    together.wait()
    libc.malloc(100_000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
with tempfile.NamedTemporaryFile() as file:
    told = libc.fopen(file.name.encode(), b"w")
    libc.malloc_info(0, told)
    libc.fclose(told)
    print(len(re.findall("<heap nr", file.read().decode())))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_threads_share_two_arenas():
    arenas = {
        how: int(subprocess.run([sys.executable, "-c", COUNT_ARENAS, how], capture_output=True, check=True).stdout)
        for how in ("each its own", "share")
    }
    assert arenas["share"] <= 2 < arenas["each its own"]
