"""XLA's options by platform, and where its compiled programs are kept."""

import os
import platform
from pathlib import Path
from typing import Any

import jax

PyTree = Any

CPU_OPTIONS: dict[str, str | bool] = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    )
}
"""YNNPACK for matrix products and sums, as XLA has it, but not for convolutions.

Many of those it runs on one core, among them all gradients of kernels; Eigen's use every core.
"""


MIN_COMPILE_S = 0.1
"""Programs that take less to compile are not kept. JAX's own limit of one second lets a program be
compiled at every start on a fast machine and kept on a slow one."""


def keep_compiled_programs() -> None:
    """Keeps what XLA compiled for the next start, unless the environment says where or not to."""
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_S)
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return  # A user without a home, as in a container.
    # By host: programs for one kind of CPU may not run on another.
    jax.config.update(
        "jax_compilation_cache_dir", str(cache / "mbh_jax" / f"xla-{platform.node()}")
    )


def compile_lowered(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles a program with the options of its platform, or without those that XLA lacks."""
    if jax.default_backend() != "cpu":
        return lowered.compile()
    try:
        return lowered.compile(compiler_options=CPU_OPTIONS)
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return lowered.compile()


class CompiledWhenCalled:
    """A function that compiles `step` so for each kind of arguments: shapes, dtypes, shardings.

    Arrays of NumPy are taken too; they have no sharding, and go to the default device.
    """

    def __init__(self, step: jax.stages.Wrapped):
        self._step = step
        self._programs: dict[Any, jax.stages.Compiled] = {}

    def __call__(self, *arguments: PyTree) -> PyTree:
        """The step's result."""
        return self.compile_for(*arguments)(*arguments)

    def compile_for(self, *arguments: PyTree) -> jax.stages.Compiled:
        """The program for arguments of a kind, or for `jax.ShapeDtypeStruct`s with shardings."""
        leaves, structure = jax.tree.flatten(arguments)
        kind = (structure, *((x.shape, x.dtype, getattr(x, "sharding", None)) for x in leaves))
        if kind not in self._programs:
            self._programs[kind] = compile_lowered(self._step.lower(*arguments))
        return self._programs[kind]
