"""Stopping on request: the run finishes its step, saves its state and ends.

Requests are SIGTERM, with which schedulers announce a preemption, Ctrl-C, and SIGHUP, which the end
of a terminal sends. A run of one process stops after the step under way. In a run of many, JAX's
coordination service announces the SIGTERM of one process to all and chooses the step after which
they stop; the other two are passed on to it as a SIGTERM.
"""

import os
import signal
import threading
from types import FrameType

import jax

from mbh_jax.errors import Stopped
from mbh_jax.runtime import distributed


class StopRequest:
    """Watches for requests to stop while its `with` block runs; a second Ctrl-C interrupts.

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
            numbers = [signal.SIGINT]
            # Under nohup the end of the terminal is to be ignored.
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                numbers.append(signal.SIGHUP)
            # Of many processes, SIGTERM belongs to JAX's coordination service.
            if jax.process_count() == 1:
                numbers.append(signal.SIGTERM)
            for number in numbers:
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
        """Raises `Stopped` if `is_set`; counts as asking it."""
        if self.is_set():
            raise Stopped
