"""What training changes and a checkpoint keeps."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from optax.contrib import ReduceLROnPlateauState

PyTree = Any


class TrainState(struct.PyTreeNode):
    """State of a run on the device; no field has a device axis.

    Attributes:
        step: () int32, optimizer steps taken.
        params: trained parameters.
        model_state: the other variable collections of the model (`batch_stats`), or empty.
        opt_state: state of the optimizer chain.
        plateau: state of the plateau rule; its `scale` multiplies every update.
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    opt_state: optax.OptState
    plateau: ReduceLROnPlateauState

    @property
    def variables(self) -> dict[str, PyTree]:
        """The variable collections that `model.apply` takes."""
        return {"params": self.params, **self.model_state}

    def with_variables(self, variables: dict[str, PyTree]) -> "TrainState":
        """The state with other variable collections."""
        model_state = dict(variables)
        params = model_state.pop("params")
        return self.replace(params=params, model_state=model_state)

    @classmethod
    def create(
        cls,
        variables: dict[str, PyTree],
        optimizer: optax.GradientTransformation,
        plateau: optax.GradientTransformation,
    ) -> "TrainState":
        """A state at step 0 from a model's initial `variables`."""
        model_state = dict(variables)
        params = model_state.pop("params")
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=model_state,
            opt_state=optimizer.init(params),
            plateau=plateau.init(jnp.zeros((), jnp.float32)),
        )
