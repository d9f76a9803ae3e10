"""A trace of a few training steps, for TensorBoard's profiler or XProf."""

import re
from typing import Any

import jax
from etils import epath

from mbh_jax import keys
from mbh_jax.log import log, only_warn

PROFILE_DIR = "profile"


def _is_range_of_steps(value: Any) -> bool:
    found = re.fullmatch(r"([1-9][0-9]*):([1-9][0-9]*)", value) if isinstance(value, str) else None
    return value == "" or (found is not None and int(found[1]) < int(found[2]))


KEYS = {
    "steps": keys.Key(
        "",
        _is_range_of_steps,
        "empty, or a first and a later last step, counted from 1, as in 10:15",
        "steps to trace for a profiler; empty: none",
    ),
}
"""Keys of the section "profile" of a configuration."""


class StepProfiler:
    """Traces the steps of `config.profile.steps`; use it in a `with` statement.

    Args:
        steps: "first:last", counted from 1 over the whole run, or "" for none.
        workdir: gets the trace below `profile/`.
    """

    def __init__(self, steps: str, workdir: epath.Path):
        first, _, last = steps.partition(":")
        self._first, self._last = (int(first), int(last)) if steps else (0, 0)
        self._directory = workdir / PROFILE_DIR
        self._tracing = False

    def __enter__(self) -> "StepProfiler":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def before_step(self, step: int) -> None:
        """To be called before step number `step` is dispatched."""
        if step == self._first:
            with only_warn("the profile"):
                jax.profiler.start_trace(self._directory)
                self._tracing = True

    def after_step(self, step: int, outputs: Any) -> None:
        """To be called with what step number `step` returned."""
        if step == self._last:
            jax.block_until_ready(outputs)
            self._stop()

    def _stop(self) -> None:
        if self._tracing:
            self._tracing = False
            with only_warn("the profile"):
                jax.profiler.stop_trace()
                log.info("wrote %s: tensorboard --logdir shows it", self._directory)
