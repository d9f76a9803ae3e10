"""Stopping on request: after SIGTERM or Ctrl-C a run finishes its step, saves its state and ends.

Schedulers announce a preemption with SIGTERM. A single process decides by itself. Of many, JAX's
coordination service tells all of one process's SIGTERM and chooses the step at which they stop;
Ctrl-C is handed to it as a SIGTERM.
"""

import os
import signal
import threading
from types import FrameType

import jax

from mbh_jax.errors import Stopped
from mbh_jax.runtime import distributed


class StopRequest:
    """Watches for SIGTERM and Ctrl-C while its `with` block runs; a second Ctrl-C interrupts.

    All processes of a run must ask `is_set` the same number of times, so that they agree on where
    to stop. Outside the main thread, where Python allows no signal handlers, it watches for nothing
    in a run of a single process.
    """

    def __init__(self) -> None:
        self._received = False
        self._agreed = False
        self._asked = 0
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            # Of many processes, SIGTERM belongs to JAX's coordination service.
            alone = jax.process_count() == 1
            for number in (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def is_set(self) -> bool:
        """Whether to stop here. To be asked once after every step, by all processes alike."""
        self._asked += 1
        if not self._agreed:
            self._agreed = (
                self._received
                if jax.process_count() == 1
                else distributed.agreed_to_stop(self._asked)
            )
        return self._agreed

    def raise_if_set(self) -> None:
        """Raises `Stopped` where `is_set` says to stop; counts as asking it."""
        if self.is_set():
            raise Stopped
