"""Work on many volumes at once, with results in order and few of them in memory."""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

from mbh_jax.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


class MapInOrder(Protocol):
    """Like `map`, perhaps in other processes."""

    def __call__(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Yields `function(item)` of each item, in the order of items."""


@contextlib.contextmanager
def worker_processes(workers: int) -> Iterator[MapInOrder]:
    """Gives a map over `workers` processes, or over this one if it is 1.

    Results wait until those before them are done; at most twice as many items as there are workers
    are under way or waiting, so memory does not grow with the number of items. What a function
    raises is raised where its result would be. Workers end with this process, even if it is killed.
    """
    if workers == 1:
        yield _map_here
        return
    # Not fork: the parent has threads (TensorFlow, BLAS).
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    )

    def map_in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        pending: collections.deque[concurrent.futures.Future[R]] = collections.deque()
        try:
            for item in items:
                with _ctrl_c_later():
                    pending.append(pool.submit(function, item))
                if len(pending) == 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                f"a worker process was killed, perhaps for want of memory: give fewer --workers "
                f"than {workers}"
            ) from None

    try:
        yield map_in_order
    finally:
        pool.shutdown(cancel_futures=True)


def _map_here(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    return map(function, items)


@contextlib.contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Holds Ctrl-C back until the end of the block, and for good in processes started in it.

    Ctrl-C reaches every process of the terminal: the parent alone says so, and ends the workers,
    which ignore it from their first moment, when they import what they need.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only.
        return
    # With the first worker, the tracker of its semaphores would let Ctrl-C through.
    multiprocessing.resource_tracker.ensure_running()
    received: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Workers inherit it.
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if received:
            signal.raise_signal(signal.SIGINT)


def _start_worker() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
