"""One run of many processes: how they join, what they exchange, and how the loss of one ends all.

Every process holds all parameters and its own share of each batch. Process 0 writes the files.
"""

import atexit
import contextlib
import itertools
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax._src.distributed import global_state
from jax.experimental import multihost_utils

from mbh_jax.errors import EXIT_LOST_PROCESS, UserError, print_last_line
from mbh_jax.log import log

PyTree = Any

HEARTBEAT_TIMEOUT_S = 60
"""A process that is silent for so long is taken for dead, and all others end."""

BARRIER_TIMEOUT_S = 1800
"""A barrier waits so long for a process that is alive but has not come."""

_barrier_numbers = itertools.count()

_agreements: list[Any] = []
"""JAX's service that announces the SIGTERM of one process to all, once they are joined."""

_TASK_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
"""Environment variables in which schedulers give the number of processes they started."""


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins this process to the others of its run; call before any other use of JAX.

    From then on only process 0 logs more than warnings.

    Args:
        coordinator: HOST:PORT of process 0, which listens there.
        num_processes: how many there are.
        process_id: number of this one, from 0. What is None is asked of the scheduler (SLURM,
            Cloud TPU, Kubernetes, Open MPI).

    Raises:
        UserError: the processes are not known or cannot be reached.
    """
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            "--distributed: cannot join the processes of the run: give --coordinator=HOST:PORT "
            f"--num_processes=N --process_id=I, or start under a scheduler ({reason})"
        ) from error
    # Orbax would ask it too, with other numbers, and processes would miss the agreed one.
    agreement: Any = global_state.preemption_sync_manager
    global_state.preemption_sync_manager = None
    _agreements.append(agreement)
    atexit.register(agreement.shutdown)
    if not is_primary():
        log.setLevel(logging.WARNING)


def refuse_unjoined_processes(environment: Mapping[str, str] = os.environ) -> None:
    """Refuses to be one of several processes that would each do the whole run.

    Raises:
        UserError: a scheduler started several processes, and --distributed was not given.
    """
    for name in _TASK_COUNTS:
        if int(environment.get(name) or 1) > 1:
            raise UserError(
                f"{name}={environment[name]}: each of these processes would do the whole run: "
                "give --distributed, or start one process"
            )


def start_devices() -> None:
    """Starts the devices of this process; call it after `join`, where there is more than one.

    Raises:
        UserError: there is none of the kind that JAX_PLATFORMS names, or it cannot be used.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        # JAX finds no GPU with an assertion that says nothing.
        reason = " ".join(str(error).split())[:300] or "there is no such device here"
        chosen = os.environ.get("JAX_PLATFORMS")
        cause = f"JAX_PLATFORMS={chosen}" if chosen else "no devices"
        raise UserError(
            f"{cause}: {reason}: unset JAX_PLATFORMS to use what there is, or set JAX_PLATFORMS=cpu"
        ) from error


def agreed_to_stop(number: int) -> bool:
    """Whether all processes stop at this question, since one of them got SIGTERM.

    Args:
        number: of the question, counted from 1; all processes must ask all of them.
    """
    return _agreements[0].reached_sync_point(number)


def wait_for_all() -> None:
    """Waits until every process has come here; to be called by all alike.

    Collectives of a CPU give up when one process comes to their first use half a minute after
    another, which compiling on a busy machine can cause.
    """
    # JAX's public barrier is itself a collective.
    client = global_state.client
    if client is not None:
        client.wait_at_barrier(f"mbh_jax_{next(_barrier_numbers)}", BARRIER_TIMEOUT_S * 1000)


def is_primary() -> bool:
    """Whether this is the process that writes files and prints tables."""
    return jax.process_index() == 0


def gather_rows(rows: PyTree) -> PyTree:
    """All processes' rows, those of process 0 first, on every process.

    Args:
        rows: arrays (b, ...), of the same shape and of at most 32 bits on every process.
    """
    if jax.process_count() == 1:
        return rows
    wait_for_all()
    return multihost_utils.process_allgather(rows, tiled=True)


@contextlib.contextmanager
def lost_process_errors() -> Iterator[None]:
    """Ends this process, where it cannot go on without another one that is gone, with one line.

    Only what the communication of a run of several processes raises is taken for that.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = " ".join(str(error).split())
        if jax.process_count() == 1 or not _is_of_communication(reason):
            raise
        print_last_line(
            "error: lost another process of this run: start all of them again, the run goes on "
            f"from its last checkpoint ({reason[:200]})"
        )
        # A regular exit would wait for the processes that are gone.
        os._exit(EXIT_LOST_PROCESS)


def _is_of_communication(reason: str) -> bool:
    words = ("gloo", "nccl", "coordination", "connection", "heartbeat", "barrier", "unavailable")
    return any(word in reason.lower() for word in words)
