"""How much memory this process has held, for programs that a test starts to measure them.

Not resource.getrusage: its peak counts what the process was before exec, and so the test runner's own memory.
"""

from __future__ import annotations

from pathlib import Path


def resident() -> int:
    """Bytes in memory now."""
    return _status("VmRSS")


def peak_resident() -> int:
    """The most bytes in memory at any time since this program started."""
    return _status("VmHWM")


def _status(key: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024
