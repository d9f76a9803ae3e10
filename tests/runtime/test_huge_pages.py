"""A process that starts anew with huge pages, once."""

import os
import sys

import pytest

from mbh_jax.runtime import huge_pages


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that the process was started anew with."""
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.append(arguments))
    monkeypatch.setattr(huge_pages, "_must_be_asked_for", lambda: True)
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return started


def test_the_same_command_is_started_once(starts: list[list[str]]) -> None:
    huge_pages.use_huge_pages()
    huge_pages.use_huge_pages()
    assert starts == [sys.orig_argv]
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"


def test_other_tunables_are_kept(starts: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    huge_pages.use_huge_pages()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"


def test_a_choice_of_the_environment_is_respected(
    starts: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    huge_pages.use_huge_pages()
    assert not starts


def test_nothing_is_started_where_pages_are_huge_anyway(
    starts: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huge_pages, "_must_be_asked_for", lambda: False)
    huge_pages.use_huge_pages()
    assert not starts
