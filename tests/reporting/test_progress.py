"""What is shown where, and that nothing waits for the device but a shown loss."""

import errno
import io
import re
import types

import pytest

from mbh_jax.reporting import progress
from mbh_jax.reporting.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """`clock.now_s` is the time that Progress sees."""
    clock = types.SimpleNamespace(now_s=100.0)
    fake = types.SimpleNamespace(monotonic=lambda: clock.now_s, strftime=lambda _: "12:00:00")
    monkeypatch.setattr(progress, "time", fake)
    return clock


def test_plain_lines_at_intervals(clock):
    stream = io.StringIO()
    with Progress(100, global_batch=4, stream=stream) as shown:
        for step in range(1, 101):
            # Half a second a step: a line at the first step, every 10 s and at the last.
            shown.update(step, epoch=1 + (step - 1) // 50, metrics={"loss": step / 8})
            clock.now_s += 0.5
    lines = stream.getvalue().splitlines()
    steps = re.findall(r"step (\d+)/100", stream.getvalue())
    assert [int(step) for step in steps] == [1, 21, 41, 61, 81, 100]
    assert lines[1] == (
        "12:00:00 training: step 21/100, epoch 1, loss 2.625, 8 images/s, 00:40 left"
    )
    assert "epoch 2" in lines[-1]
    assert "\r" not in stream.getvalue()


def test_images_a_second_leave_out_pauses_and_the_first_step(clock):
    stream = io.StringIO()
    with Progress(1000, start_step=500, global_batch=10, stream=stream) as shown:
        clock.now_s += 300
        shown.update(501)
        for step in range(502, 512):
            clock.now_s += 1
            shown.update(step)
        with shown.paused("validating"):
            clock.now_s += 50
        shown.update(511, metrics={"loss": 1.0})
    # 10 steps of 10 images in 10 s; time left counts the pause: 60 s for 10 steps, 489 to go.
    assert "10 images/s" in stream.getvalue().splitlines()[-1]
    assert "48:54 left" in stream.getvalue().splitlines()[-1]


def test_share_of_time_that_steps_wait_for_input(clock, monkeypatch):
    def slow_batches():
        for number in range(21):
            clock.now_s += 0.25
            yield number

    monkeypatch.setattr(progress, "memory_in_use", lambda: 3 * 2**30)
    stream = io.StringIO()
    with Progress(1000, global_batch=2, stream=stream) as shown:
        for number in shown.watch_input(slow_batches()):
            clock.now_s += 0.75
            shown.update(number + 1, metrics={"loss": 1.0} if number % 10 == 0 else None)
    assert "2 images/s, input wait 25%, 3 GiB, " in stream.getvalue().splitlines()[-1]


def test_metrics_are_read_only_where_they_are_given():
    reads = []

    class OnDevice:
        def __float__(self):
            reads.append(self)
            return 0.5

    with Progress(10, stream=io.StringIO()) as shown:
        for step in range(1, 11):
            shown.update(step, metrics={"loss": OnDevice()} if step == 5 else None)
    assert len(reads) == 1


def test_nothing_is_shown_or_read_where_it_is_disabled():
    class Unreadable:
        def __float__(self):
            raise AssertionError("waited for the device")

    for stream in (io.StringIO(), Terminal()):
        with Progress(2, enabled=False, stream=stream) as shown:
            shown.update(1, metrics={"loss": Unreadable()})
            shown.message("text")
            with shown.paused("validating"):
                pass
        assert stream.getvalue() == ""


def test_a_bar_on_a_terminal_goes_on_after_a_message(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with Progress(20, start_step=5, stream=stream) as shown:
        shown.update(6, epoch=3, metrics={"loss": 0.25})
        shown.message("wrote a file")
        shown.update(20, epoch=3, metrics={"loss": 0.125})
    text = stream.getvalue()
    assert "wrote a file\n" in text
    assert "5/20" in text
    assert re.search(r"20/20, epoch 3, loss 0\.125", text.split("wrote a file")[1])
    assert "\r" in text


class Gone(Terminal):
    """A terminal, or a pipe, that takes so many writes and then none."""

    def __init__(self, error, writes, *, is_terminal):
        super().__init__()
        self.error, self.left, self.is_terminal = error, writes, is_terminal

    def isatty(self):
        return self.is_terminal

    def write(self, text):
        if not self.left:
            raise self.error
        self.left -= 1
        return super().write(text)


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("writes", [0, 3])
@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("I/O operation on closed file"),
    ],
)
def test_a_stream_that_fails_is_one_warning(error, writes, is_terminal, clock, caplog):
    stream = Gone(error, writes, is_terminal=is_terminal)
    with Progress(100, stream=stream) as shown:
        for step in range(1, 101):
            clock.now_s += 11
            shown.update(step, metrics={"loss": 0.5})
            shown.message("wrote a file")
            with shown.paused("validation"):
                pass
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(error) in caplog.text


def test_a_process_without_standard_error_shows_nothing(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    with Progress(2) as shown:
        shown.update(1)
        shown.message("text")
