"""Run one command and write its wall seconds and its peak memory to a file.

This is a small process of its own because the kernel counts the memory that a parent had when it
forked as part of the child's peak. Run as `python -S -E bench/launch.py RESULT COMMAND…`.
"""

import os
import resource
import subprocess
import sys
import time

result, command = sys.argv[1], sys.argv[2:]
started = time.perf_counter()
code = subprocess.call(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
elapsed = time.perf_counter() - started
peak_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
with open(result, "w") as out:  # noqa: PTH123 - pathlib would double this process's memory
    out.write(f"{elapsed} {peak_kb * 1024}\n")
os._exit(code if code >= 0 else 128 - code)
