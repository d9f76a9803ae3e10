"""A process that starts anew with huge pages, once, before JAX is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, pathlib, sys
from mbh_jax.runtime import huge_pages
huge_pages._POLICY = pathlib.Path({policy!r})
huge_pages.use_huge_pages()
print(os.environ.get("GLIBC_TUNABLES"), "jax" in sys.modules)
"""


def tunables(policy: Path, **environment: str) -> str:
    """GLIBC_TUNABLES of a process that asked for huge pages, and whether it had imported JAX."""
    clean = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(policy=str(policy))],
        env=clean | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_a_process_on_a_cpu_starts_anew_where_it_has_to_ask(tmp_path: Path) -> None:
    policy = tmp_path / "enabled"
    policy.write_text("always [madvise] never\n")
    assert tunables(policy) == "glibc.malloc.hugetlb=1 False"
    kept = tunables(policy, GLIBC_TUNABLES="glibc.malloc.arena_max=2")
    assert kept == "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1 False"
    off = "glibc.malloc.hugetlb=0"
    assert tunables(policy, GLIBC_TUNABLES=off) == f"{off} False"
    assert tunables(policy, JAX_PLATFORMS="cuda") == "None False"
    policy.write_text("[always] madvise never\n")
    assert tunables(policy) == "None False"
