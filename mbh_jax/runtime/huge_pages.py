"""Huge pages for what a process allocates, asked of glibc at its start."""

import os
import platform
import sys
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb"
"""1: allocations ask for transparent huge pages (glibc 2.35 and newer; older ones ignore it)."""

_POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages() -> None:
    """Starts this process anew with huge pages for what it allocates, where it has to ask for them.

    A training step on a CPU allocates gigabytes and frees them again; the system clears them page
    by page, a fifth of the step's time with pages of 4 KiB. glibc asks for others only if the
    environment said so when the process started. Set GLIBC_TUNABLES=glibc.malloc.hugetlb=0 to
    leave that be.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if TUNABLE in tunables or platform.libc_ver()[0] != "glibc" or not _must_be_asked_for():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, f"{TUNABLE}=1"]))
    os.execv(sys.executable, sys.orig_argv)


def _must_be_asked_for() -> bool:
    try:
        return "[madvise]" in _POLICY.read_text()
    except OSError:
        return False
