"""What training changes and a checkpoint keeps."""

import math
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
        average: average over the steps of all variable collections, or None.
        opt_state: state of the optimizer chain.
        plateau: state of the plateau rule; its `scale` multiplies every update.
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    average: dict[str, PyTree] | None
    opt_state: optax.OptState
    plateau: ReduceLROnPlateauState

    @property
    def trained(self) -> dict[str, PyTree]:
        """The variable collections that the next step goes on from."""
        return {"params": self.params, **self.model_state}

    @property
    def variables(self) -> dict[str, PyTree]:
        """The variable collections that are evaluated and kept: the average, if there is one."""
        return self.trained if self.average is None else self.average

    def with_trained(self, variables: dict[str, PyTree]) -> "TrainState":
        """The state with other variable collections to go on from."""
        model_state = dict(variables)
        params = model_state.pop("params")
        return self.replace(params=params, model_state=model_state)

    def with_variables(self, variables: dict[str, PyTree]) -> "TrainState":
        """The state with other variable collections, which are the average too, if there is one."""
        state = self.with_trained(variables)
        if self.average is None:
            return state
        # A copy, because a step donates every buffer of the state.
        return state.replace(average=jax.tree.map(lambda array: array.copy(), variables))

    @classmethod
    def create(
        cls,
        variables: dict[str, PyTree],
        optimizer: optax.GradientTransformation,
        plateau: optax.GradientTransformation,
        *,
        with_average: bool = False,
    ) -> "TrainState":
        """A state at step 0 from a model's initial `variables`."""
        model_state = dict(variables)
        params = model_state.pop("params")
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=model_state,
            average=jax.tree.map(jnp.copy, variables) if with_average else None,
            opt_state=optimizer.init(params),
            plateau=plateau.init(jnp.zeros((), jnp.float32)),
        )


def updated_average(state: TrainState, decay: float) -> PyTree:
    """The average of the variables after each of the steps so far, weighted exponentially.

    After step t it is sum_i d^(t-i) v_i / sum_i d^(t-i), i from 1 to t, d being `decay`: that of
    `optax.ema(decay, debias=True)`, held after the division, so that it can be used as it is.

    Args:
        state: after step t, with the average of before.
        decay: between 0 and 1.
    """
    # The weight of step t, (1 - d) / (1 - d^t); d^t loses no digits where d is nearly 1.
    weight = (1.0 - decay) / -jnp.expm1(state.step * math.log(decay))
    return jax.tree.map(
        lambda average, new: average + weight.astype(average.dtype) * (new - average),
        state.average,
        state.trained,
    )
