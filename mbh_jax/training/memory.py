"""What a compiled training step needs of a device's memory, and what to change if that is too much.

XLA plans a program's memory when it compiles it, so the need is known before the first step.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from mbh_jax import models
from mbh_jax.errors import UserError
from mbh_jax.log import log


class Estimate(NamedTuple):
    """Bytes that a compiled program needs on each of its devices.

    Attributes:
        held: arguments and results; a result that takes a donated argument's place counts once.
        workspace: everything else: activations, gradients, the scratch space of operations.
    """

    held: int
    workspace: int

    @property
    def total(self) -> int:
        """All bytes of a device."""
        return self.held + self.workspace


def estimate(compiled: jax.stages.Compiled) -> Estimate | None:
    """What a program compiled by `jit` or `pmap` needs; None where the backend does not say."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    held = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    return Estimate(held, analysis.temp_size_in_bytes)


def device_capacity(device: jax.Device) -> int | None:
    """Bytes that programs may use on `device`, or None where that is unknown.

    Of an accelerator what its allocator may take, of a CPU device its share of the host's memory.
    """
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None and device.platform == "cpu":
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limit = physical // jax.local_device_count()
    return limit


def _in_words(size: int) -> str:
    """Bytes in MiB, or in GiB from one on."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def report(compiled: jax.stages.Compiled, config: ConfigDict, num_steps: int = 1) -> None:
    """Logs what the training step needs, and what to change where the device has less.

    Args:
        compiled: the training step, or several of them in one call.
        config: the run's configuration.
        num_steps: how many.
    """
    need = estimate(compiled)
    if need is None:
        return
    device = jax.local_devices()[0]
    capacity = device_capacity(device)
    log.info(
        "memory: %s a device%s (%s %s, %s activations and workspace)%s",
        _in_words(need.total),
        f" in a call of {num_steps} steps" if num_steps > 1 else "",
        _in_words(need.held),
        "state, batch and resident slices" if config.data.resident else "state and batch",
        _in_words(need.workspace),
        f" of {_in_words(capacity)}" if capacity else "",
    )
    if capacity and need.total > capacity:
        log.warning(
            "memory: the training step will not fit: %s",
            suggestions(config, jax.device_count(), device.platform),
        )


def suggestions(config: ConfigDict, num_devices: int, platform: str) -> str:
    """Keys that lower the memory a run needs, those that keep its results first.

    A batch is halved only where devices and microbatches still divide it. `model.remat` is left out
    on a CPU, whose compiler undoes it.
    """
    share = config.train.batch_size // num_devices
    microbatches = config.train.accumulate_steps
    more = next((n for n in range(microbatches + 1, share + 1) if share % n == 0), 0)
    halved = config.train.batch_size // 2
    divided = num_devices * microbatches
    divisor = models.size_divisor(config.model)
    smaller = config.data.image_size // 2 // divisor * divisor
    overrides = [
        "--config.data.resident=False" if config.data.resident else "",
        f"--config.train.accumulate_steps={more}" if more else "",
        "--config.model.remat=True"
        if not config.model.get("remat", True) and platform != "cpu"
        else "",
        "--config.model.dtype=bfloat16" if config.model.get("dtype") == "float32" else "",
        f"--config.train.batch_size={halved}" if halved and halved % divided == 0 else "",
        f"--config.data.image_size={smaller}" if smaller else "",
    ]
    named = ", ".join(filter(None, overrides))
    return f"try, in this order, {named}" if named else "a device with more memory is needed"


@contextlib.contextmanager
def out_of_memory_errors(config: ConfigDict) -> Iterator[None]:
    """Turns an allocation that failed in training or evaluation into one line.

    Raises:
        UserError: the block ended in JAX's RESOURCE_EXHAUSTED; it says what to change.
    """
    with device_memory_errors(
        f"{suggestions(config, jax.device_count(), jax.default_backend())}; "
        f"in evaluation, less than --config.eval.batch_size={config.eval.batch_size}"
    ):
        yield


@contextlib.contextmanager
def device_memory_errors(fix: str) -> Iterator[None]:
    """Turns an allocation that failed on a device into one line that ends with `fix`.

    Raises:
        UserError: the block ended in JAX's RESOURCE_EXHAUSTED.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).rpartition("RESOURCE_EXHAUSTED: ")[2].partition("\n")[0]
        raise UserError(f"out of memory on the device ({reason.rstrip('. ')}): {fix}") from error
