"""Huge pages for what a process allocates on a host without accelerator.

A training step on a CPU allocates gigabytes and frees them again, and the system clears them page
by page. glibc asks for larger pages only if the environment said so when the process started.
"""

import os
import platform
import sys
from pathlib import Path

from mbh_jax.errors import hold_first_signals
from mbh_jax.log import log

TUNABLE = "glibc.malloc.hugetlb"
"""1: allocations ask for transparent huge pages (glibc 2.35 and newer; older ones ignore it)."""

_POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel*", "vfio/[0-9]*")
"""Device files of NVIDIA's and AMD's GPUs and of TPUs."""


def use_huge_pages() -> None:
    """Starts this process again with huge pages, where it runs on a CPU and has to ask for them.

    To be called before JAX is imported. Set GLIBC_TUNABLES=glibc.malloc.hugetlb=0 to keep small
    pages.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if TUNABLE in tunables or not _runs_on_cpu() or not _must_be_asked_for():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, f"{TUNABLE}=1"]))
    hold_first_signals()
    os.execv(sys.executable, sys.orig_argv)


def log_use() -> None:
    """Says, in a debug line, that this process allocates huge pages."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if f"{TUNABLE}=1" in tunables:
        log.debug("memory is allocated in huge pages (GLIBC_TUNABLES=%s)", tunables)


def _runs_on_cpu() -> bool:
    chosen = os.environ.get("JAX_PLATFORMS", "")
    if chosen:
        return chosen == "cpu"
    return not any(any(Path("/dev").glob(pattern)) for pattern in _ACCELERATORS)


def _must_be_asked_for() -> bool:
    try:
        return platform.libc_ver()[0] == "glibc" and "[madvise]" in _POLICY.read_text()
    except OSError:
        return False
