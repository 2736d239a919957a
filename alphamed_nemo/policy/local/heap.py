"""What glibc keeps of freed memory, held to what a step needs.

On CPU the ranks keep freed memory for the next activations (KEEP_FREED_MEMORY in launch/components.py), which saves a
fifth of a step. But packs differ from step to step, and so do their tensors: what one step freed lies in pieces that
the next cannot use, and after thirty steps of a model of 135 million parameters a rank held 11 GB, of which it used 3
between steps and 5 within them.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import torch

from alphamed_nemo.processor import give_back_freed_memory

# Kept beyond what is in use between steps, as a multiple of what a step takes in addition. The rest is given back, and
# its pages are taken anew where they are needed: 0.3 s a GB.
SLACK = 1.25

_STATM = Path("/proc/self/statm")


class _Mallinfo2(ctypes.Structure):
    """Of mallinfo2(3), which is in glibc from 2.33 on."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


class Heap:
    """Of this process. Does nothing on GPUs, whose tensors torch's own allocator holds, or under another libc."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        works = hasattr(self._libc, "mallinfo2") and hasattr(self._libc, "malloc_trim") and _STATM.exists()
        self.works = works and not torch.cuda.is_available()
        if self.works:
            self._libc.mallinfo2.restype = _Mallinfo2
        self._most = 0  # bytes in use within this step
        self._needed = 0  # bytes that a step has taken at most beyond what it leaves in use
        self._floor: int | None = None  # bytes resident, when all that was free had been given back

    def note(self) -> None:
        """Called where a step holds most: at its loss."""
        if self.works:
            self._most = max(self._most, self.in_use())

    def step_ended(self) -> None:
        """Gives back what is kept beyond `SLACK`; all of it in the first step, in which the optimizer has made its
        moments amid freed activations, and in the first after `give_back`."""
        if not self.works:
            return
        self._needed, self._most = max(self._needed, self._most - self.in_use()), 0
        if self._floor is None or self.resident() > self._floor + SLACK * self._needed:
            self.give_back()
            self._floor = self.resident()

    def give_back(self) -> None:
        """All that is free, to the system: after what is done once, such as loading or saving."""
        if self.works:
            give_back_freed_memory()
            self._floor = None

    def in_use(self) -> int:
        """Bytes that malloc has handed out."""
        found = self._libc.mallinfo2()
        return found.uordblks + found.hblkhd

    def resident(self) -> int:
        """Bytes of this process's own memory that are in RAM; files and what it shares are not counted."""
        _, resident, shared, *_ = map(int, _STATM.read_text().split())
        return (resident - shared) * mmap.PAGESIZE


HEAP = Heap()
