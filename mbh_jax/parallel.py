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

PyTree = Any
Batch = Mapping[str, np.ndarray]

AXIS_NAME = "batch"
MODES = ("pmap", "jit")

STEP_INPUTS = ("image", "label", "weight", "example")
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
        """The device axis a step sees: its name under pmap, None under jit."""
        return AXIS_NAME if self.mode == "pmap" else None

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

    @property
    def sharded(self) -> NamedSharding:
        """The sharding of what is divided over devices along its first axis."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS_NAME))


def create_parallel(mode: str, devices: list[jax.Device] | None = None) -> Parallel:
    """A `Parallel` over `devices`, by default all devices of all processes."""
    devices = jax.devices() if devices is None else devices
    return Parallel(mode, Mesh(np.asarray(devices), (AXIS_NAME,)))


def compile_train_step(step: Callable, parallel: Parallel) -> jax.stages.Wrapped:
    """Compiles `step(state, batch, rng, *, axis_name) -> (state, sums)`; the state is donated."""
    step = functools.partial(step, axis_name=parallel.axis_name)
    if parallel.mode == "pmap":
        return jax.pmap(
            step,
            axis_name=AXIS_NAME,
            in_axes=(None, 0, None),
            out_axes=None,
            donate_argnums=0,
            devices=list(parallel.mesh.devices.flat),
        )
    return jax.jit(
        step,
        in_shardings=(parallel.replicated, parallel.sharded, parallel.replicated),
        out_shardings=parallel.replicated,
        donate_argnums=0,
    )


def compile_eval_step(step: Callable, parallel: Parallel) -> Callable:
    """Compiles `step(variables, batch) -> rows`, one row an example, left on the devices."""
    if parallel.mode == "pmap":
        return jax.pmap(
            step, axis_name=AXIS_NAME, in_axes=(None, 0), devices=list(parallel.mesh.devices.flat)
        )
    return jax.jit(
        step,
        in_shardings=(parallel.replicated, parallel.sharded),
        out_shardings=parallel.sharded,
    )


def put_batch(batch: Batch, parallel: Parallel) -> PyTree:
    """Starts the transfer of what steps read of this process's share of a batch to its devices.

    Arrays (b, ...) arrive as (local devices, b / local devices, ...) under pmap and as one global
    array, sharded along its first axis, under jit.
    """
    arrays = {name: batch[name] for name in STEP_INPUTS if name in batch}
    if parallel.mode == "jit":
        return {
            name: jax.make_array_from_process_local_data(parallel.sharded, array)
            for name, array in arrays.items()
        }
    local_mesh = parallel.mesh.local_mesh
    sharding = NamedSharding(local_mesh, PartitionSpec(AXIS_NAME))
    return {
        name: jax.device_put(array.reshape(local_mesh.size, -1, *array.shape[1:]), sharding)
        for name, array in arrays.items()
    }


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
