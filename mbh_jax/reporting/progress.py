"""How far a run is and how fast: a bar on a terminal, plain lines elsewhere."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from mbh_jax.log import log

Item = TypeVar("Item")

LINE_INTERVAL_S = 10.0
"""Least time between two plain lines."""


def memory_in_use() -> int | None:
    """The most bytes that a device of this process has held; None where that is not known."""
    import jax  # Here, so that masks are scored without it.

    peaks = [
        (device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()
    ]
    return max((peak for peak in peaks if peak is not None), default=None)


def _is_first_process() -> bool:
    import jax

    return jax.process_index() == 0


class _Output:
    """A text stream whose errors end nothing: the first is a warning in the log.

    A terminal that is gone and a pipe that nobody reads refuse what is written; a full disk does so
    for a while.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._has_failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return bool(self._try(self._stream.isatty))

    def write(self, text: str) -> int:
        """Writes what the stream takes."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flushes what the stream takes."""
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except (OSError, ValueError) as error:
            if not self._has_failed:
                self._has_failed = True
                log.warning("warning: progress cannot be shown, the run goes on (%s)", error)
            return None


class Progress:
    """Shows step, epoch, loss, images a second and time left. Use it in a `with` statement.

    Calling `update` costs nothing but the drawing: it waits for the device only where it is given
    `metrics`, whose values it reads. Images a second are measured between two such readings, since
    steps that were merely dispatched say nothing about speed, and without what happens in `paused`.
    A stream that cannot be written to ends nothing.

    Args:
        total_steps: steps of the whole run.
        start_step: steps taken before, in a run that continues.
        global_batch: examples a step, over all devices; 0 shows no images a second.
        label: what is going on, such as "training" or "evaluating".
        enabled: whether to show anything; None means on process 0 only.
        stream: where to; None means standard error.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        global_batch: int = 0,
        *,
        label: str = "training",
        enabled: bool | None = None,
        stream: TextIO | None = None,
    ):
        self._total = total_steps
        self._step = self._start = start_step
        self._global_batch = global_batch
        self._label = label
        stream = sys.stderr if stream is None else stream
        shows = _is_first_process() if enabled is None else enabled
        # Python has no standard error where the process was started without one.
        self._enabled = shows and stream is not None
        self._stream = _Output(stream)
        self._bar: tqdm | None = None
        self._epoch: int | None = None
        self._metrics: dict[str, float] = {}
        self._images_per_second: float | None = None
        self._left_s: float | None = None
        self._paused_s = 0.0
        self._input_s: float | None = None
        self._input_share: float | None = None
        # The clock starts after the first step, which compiles.
        self._first: tuple[int, float] | None = None
        self._last_read: tuple[int, float] | None = None
        self._last_line_s = -math.inf
        self._last_line_step: int | None = None

    def __enter__(self) -> "Progress":
        if self._enabled and self._stream.isatty():
            self._bar = tqdm(
                total=self._total,
                initial=self._start,
                desc=self._label,
                unit="step",
                file=self._stream,
                dynamic_ncols=True,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
            )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def update(
        self, step: int, *, epoch: int | None = None, metrics: Mapping[str, Any] | None = None
    ) -> None:
        """Shows that `step` steps have been taken or dispatched.

        Args:
            step: steps of the run so far.
            epoch: the epoch of this step, from 1.
            metrics: scalars to show, arrays on the device or numbers. Reading them waits for the
                device, so give them at logging steps only.
        """
        if not self._enabled:
            return
        self._step = step
        self._epoch = epoch
        if metrics:
            self._metrics = {name: float(value) for name, value in metrics.items()}
        self._measure(time.monotonic() - self._paused_s, read=bool(metrics))
        if self._bar is not None:
            self._bar.set_postfix_str(self._describe(), refresh=False)
            self._bar.update(step - self._bar.n)
        elif (
            time.monotonic() - self._last_line_s >= LINE_INTERVAL_S
            or step == self._total != self._last_line_step
        ):
            self._last_line_s = time.monotonic()
            self._last_line_step = step
            text = f"{self._label}: step {self._step}/{self._total}"
            self._print_line(", ".join(filter(None, [text, self._describe()])))

    def _measure(self, busy_s: float, *, read: bool) -> None:
        """Brings images a second and time left up to date; `busy_s` is a clock without pauses."""
        now_s = time.monotonic()
        if self._first is None:
            self._first = self._step, now_s
            self._last_read = self._step, busy_s
            return
        steps = self._step - self._first[0]
        if steps > 0:
            self._left_s = (now_s - self._first[1]) / steps * (self._total - self._step)
        if read and self._last_read is not None and self._global_batch:
            steps, seconds = self._step - self._last_read[0], busy_s - self._last_read[1]
            if steps > 0 and seconds > 0:
                self._images_per_second = steps * self._global_batch / seconds
                if self._input_s is not None:
                    self._input_share = min(self._input_s / seconds, 1.0)
                    self._input_s = 0.0
            self._last_read = self._step, busy_s

    def _describe(self) -> str:
        texts = [] if self._epoch is None else [f"epoch {self._epoch}"]
        texts += [f"{name} {value:.4g}" for name, value in self._metrics.items()]
        if self._images_per_second is not None:
            texts.append(f"{self._images_per_second:.3g} images/s")
        if self._input_share is not None:
            texts.append(f"input wait {self._input_share:.0%}")
        if self._images_per_second is not None and (used := memory_in_use()):
            texts.append(f"{used / 2**30:.3g} GiB")
        if self._left_s is not None:
            texts.append(f"{tqdm.format_interval(round(self._left_s))} left")
        return ", ".join(texts)

    def _print_line(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=self._stream, flush=True)

    def message(self, text: str) -> None:
        """Prints a line above the bar, or just a line."""
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            self._print_line(text)

    def watch_input(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yields from `batches`, and shows the share of time that was spent waiting for them."""
        iterator = iter(batches)
        while True:
            began_s = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            if self._first is not None:
                self._input_s = (self._input_s or 0.0) + time.monotonic() - began_s
            yield batch

    @contextlib.contextmanager
    def paused(self, label: str) -> Iterator[None]:
        """Shows another label, and keeps what happens inside out of images a second."""
        began_s = time.monotonic()
        if self._bar is not None:
            self._bar.set_description_str(label)
        try:
            yield
        finally:
            self._paused_s += time.monotonic() - began_s
            if self._bar is not None:
                self._bar.set_description_str(self._label)
