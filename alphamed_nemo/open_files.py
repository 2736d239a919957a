"""How many files and connections this process may have open."""

from __future__ import annotations

import resource

LEAST = 1024


def raise_file_limit() -> None:
    """Gives this process as many file descriptors as it may have: each connection takes one.

    Raises:
        ValueError: they are too few even so.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 2**20 if hard == resource.RLIM_INFINITY else hard
    if most < LEAST:
        raise ValueError(f"at most {most} file descriptors (ulimit -Hn), expected at least {LEAST}; raise the limit")
    if soft == resource.RLIM_INFINITY or soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
