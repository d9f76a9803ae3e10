"""How one step runs on many devices: compiled by pmap or by jit over a mesh, and fed batches.

A step is written for one device's share of the batch and takes the name of the device axis or None.
`pmap` runs it once a device with that name; `jit` runs it once on the whole batch, sharded over the
mesh, and lets the compiler divide the work. Parameters carry no device axis in either.
"""

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mbh_jax.runtime import xla

PyTree = Any
Batch = Mapping[str, np.ndarray]

AXIS_NAME = "batch"
MODES = ("pmap", "jit")

IN_FLIGHT = 2
"""Batches whose results stay on the device in `map_batches`."""

STEP_INPUTS = ("image", "label", "weight", "example", "draw")
"""The arrays of a batch that steps read; volume and slice numbers stay on the host."""


class Parallel(NamedTuple):
    """Where and how steps run.

    Attributes:
        mode: "pmap" or "jit".
        mesh: one axis, `AXIS_NAME`, over all devices of all processes.
    """

    mode: str
    mesh: Mesh

    @property
    def axis_name(self) -> str | None:
        """The device axis that a step adds over: under pmap of several devices; None elsewhere.

        A sum over one device would copy every gradient.
        """
        return AXIS_NAME if self.mode == "pmap" and self.mesh.size > 1 else None

    @property
    def calls_compiled(self) -> bool:
        """Whether a step compiled before its first call can be called; not `pmap` over processes.

        There the call compiles again, which the cache of compiled programs makes short.
        """
        return self.mode == "jit" or jax.process_count() == 1

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def replicate(self, tree: PyTree) -> PyTree:
        """What every process holds whole, as arrays over all devices of all processes.

        A step compiled by `pmap` returns arrays over the devices of its own process only. Nothing
        is copied that the devices hold already.
        """

        local_devices = set(self.mesh.local_mesh.devices.flat)

        def over_all(array: Any) -> jax.Array:
            if isinstance(array, jax.Array) and array.sharding.device_set == local_devices:
                pieces = [shard.data for shard in array.addressable_shards]
                return jax.make_array_from_single_device_arrays(
                    array.shape, self.replicated, pieces
                )
            return jax.device_put(array, self.replicated)

        return jax.tree.map(over_all, tree)

    def hold(self, array: np.ndarray) -> jax.Array:
        """Copies what every process has whole, and does not change, to all devices.

        Unlike `replicate`, it does not compare what the processes have, which for large arrays
        takes long.
        """
        return jax.make_array_from_callback(
            array.shape, self.replicated, lambda index: array[index], dtype=array.dtype
        )

    @property
    def sharded(self) -> NamedSharding:
        """The sharding of what is divided over devices along its first axis."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS_NAME))

    def batch_sharding(self, num_steps: int) -> NamedSharding:
        """The sharding under jit of the batches of a call of `num_steps` steps."""
        if num_steps == 1:
            return self.sharded
        return NamedSharding(self.mesh, PartitionSpec(None, AXIS_NAME))


def create_parallel(mode: str, devices: list[jax.Device] | None = None) -> Parallel:
    """A `Parallel` over `devices`, by default all devices of all processes."""
    devices = jax.devices() if devices is None else devices
    return Parallel(mode, Mesh(np.asarray(devices), (AXIS_NAME,)))


def compile_train_step(
    step: Callable, parallel: Parallel, *, num_steps: int = 1, num_shared: int = 0
) -> jax.stages.Wrapped:
    """Compiles `step(state, batch, rng, *shared, axis_name) -> (state, sums)`.

    The state is donated.

    Args:
        step: one step, written for one device's share of a batch.
        parallel: where it runs.
        num_steps: steps in a call. Of more than one, the program takes the batches of
            `stack_batches`, arrays (num_steps, ...), and returns the sums so.
        num_shared: arguments after `rng`, which every device holds whole.
    """
    step = functools.partial(step, axis_name=parallel.axis_name)
    program = step if num_steps == 1 else _in_one_call(step)
    if parallel.mode == "pmap":
        return jax.pmap(
            program,
            axis_name=AXIS_NAME,
            in_axes=(None, 0, None, *(None,) * num_shared),
            out_axes=None,
            donate_argnums=0,
            devices=list(parallel.mesh.devices.flat),
        )
    whole = parallel.replicated
    return jax.jit(
        program,
        in_shardings=(whole, parallel.batch_sharding(num_steps), whole, *(whole,) * num_shared),
        out_shardings=whole,
        donate_argnums=0,
    )


def _in_one_call(step: Callable) -> Callable:
    """A program that takes one step after the other, of batches of arrays (num_steps, ...)."""

    def steps(state: PyTree, batches: PyTree, *shared: PyTree) -> tuple[PyTree, PyTree]:
        return jax.lax.scan(lambda state, batch: step(state, batch, *shared), state, batches)

    return steps


def compile_eval_step(step: Callable, parallel: Parallel) -> Callable:
    """Compiles `step(variables, batch) -> rows`, one row an example, left on the devices."""
    if parallel.mode == "pmap":
        wrapped = jax.pmap(
            step, axis_name=AXIS_NAME, in_axes=(None, 0), devices=list(parallel.mesh.devices.flat)
        )
    else:
        wrapped = jax.jit(
            step,
            in_shardings=(parallel.replicated, parallel.sharded),
            out_shardings=parallel.sharded,
        )
    return xla.CompiledWhenCalled(wrapped) if parallel.calls_compiled else wrapped


def stack_batches(batches: Iterable[Batch], num_steps: int) -> Iterator[Batch]:
    """Groups batches for calls of several steps.

    Args:
        batches: arrays (b, ...), from the beginning of an epoch or of a group on.
        num_steps: batches in a group.

    Yields:
        What steps read of `num_steps` batches at a time, as arrays (num_steps, b, ...); the
        batches after the last whole group, and all if `num_steps` is 1, one by one as they are.
    """
    if num_steps == 1:
        yield from batches
        return
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, num_steps)):
        if len(group) < num_steps:
            yield from group
        else:
            names = [name for name in STEP_INPUTS if name in group[0]]
            yield {name: np.stack([batch[name] for batch in group]) for name in names}


def num_steps_of(batch: Batch) -> int:
    """Steps that one call takes with a batch that `stack_batches` yielded."""
    return len(batch["weight"]) if batch["weight"].ndim > 1 else 1


def put_batch(batch: Batch, parallel: Parallel) -> PyTree:
    """Starts the transfer of what steps read of this process's share of a batch to its devices.

    Arrays (b, ...) arrive as (local devices, b / local devices, ...) under pmap and as one global
    array, sharded along its first axis, under jit; arrays (steps, b, ...) of `stack_batches` as
    (local devices, steps, b / local devices, ...), or sharded along their second axis.
    """
    arrays = {name: batch[name] for name in STEP_INPUTS if name in batch}
    num_steps = num_steps_of(batch)
    if parallel.mode == "jit":
        sharding = parallel.batch_sharding(num_steps)
        return {
            name: jax.make_array_from_process_local_data(sharding, array)
            for name, array in arrays.items()
        }
    local_mesh = parallel.mesh.local_mesh
    sharding = NamedSharding(local_mesh, PartitionSpec(AXIS_NAME))

    def by_device(array: np.ndarray) -> np.ndarray:
        if num_steps == 1:
            return array.reshape(local_mesh.size, -1, *array.shape[1:])
        shares = array.reshape(num_steps, local_mesh.size, -1, *array.shape[2:])
        return shares.swapaxes(0, 1)

    return {name: jax.device_put(by_device(array), sharding) for name, array in arrays.items()}


def each_step(sums: PyTree) -> list[PyTree]:
    """What each step of a call returned, in order.

    Args:
        sums: NumPy arrays as one call returned them, or as (num_steps, ...) one of several steps.
    """
    if sums["examples"].ndim == 0:
        return [sums]
    return [
        jax.tree.map(lambda values, number=number: values[number], sums)
        for number in range(len(sums["examples"]))
    ]


def local_rows(outputs: PyTree, parallel: Parallel) -> PyTree:
    """This process's rows of what an evaluation step returned, as NumPy arrays (b, ...)."""
    if parallel.mode == "pmap":
        return jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), outputs)

    def rows(array: jax.Array) -> np.ndarray:
        shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])

    return jax.tree.map(rows, outputs)


def prefetch(
    batches: Iterable[Batch], parallel: Parallel, size: int = 2
) -> Iterator[tuple[Batch, PyTree]]:
    """Yields each batch and its arrays on the devices, `size` of them always on their way."""
    queue: collections.deque[tuple[Batch, PyTree]] = collections.deque()
    iterator = iter(batches)
    for batch in itertools.islice(iterator, size):
        queue.append((batch, put_batch(batch, parallel)))
    while queue:
        yield queue.popleft()
        for batch in itertools.islice(iterator, 1):
            queue.append((batch, put_batch(batch, parallel)))


def map_batches(
    step: Callable[[PyTree, PyTree], PyTree],
    variables: PyTree,
    batches: Iterable[Batch],
    parallel: Parallel,
) -> Iterator[tuple[Batch, PyTree]]:
    """Yields each batch and this process's rows of `step(variables, batch)`, in order.

    The results of `IN_FLIGHT` batches stay on the device while the next ones are computed.
    """
    pending: collections.deque[tuple[Batch, PyTree]] = collections.deque()
    for batch, arrays in prefetch(batches, parallel):
        pending.append((batch, step(variables, arrays)))
        if len(pending) > IN_FLIGHT:
            done, outputs = pending.popleft()
            yield done, local_rows(outputs, parallel)
    for batch, outputs in pending:
        yield batch, local_rows(outputs, parallel)
