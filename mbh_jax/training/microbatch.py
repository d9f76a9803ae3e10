"""Gradients of a loss over a batch, accumulated over microbatches to save memory.

The objective is a function of sums over all examples of all devices, not a mean of per-example
losses. Its gradient with respect to those sums is computed once; each device, and each microbatch,
pulls it back through its own share of them. So the result is that of the whole batch, however the
batch is divided.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mbh_jax.optimization.loss import Loss
from mbh_jax.training.train_state import TrainState

PyTree = Any

Forward = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, tuple[PyTree, PyTree]]]
"""`(params, model_state, batch) -> (statistics, (model_state, reported))`.

`statistics` are the loss's, added over the batch, with "examples"; `reported` are other sums.
"""

Result = tuple[PyTree, tuple[PyTree, PyTree]]
"""`(model_state, (gradients, sums))`: one device's share of gradients and sums."""


def accumulate_gradients(
    forward: Forward,
    loss: Loss,
    state: TrainState,
    batch: PyTree,
    *,
    total: Callable[[PyTree], PyTree],
    num_microbatches: int,
) -> Result:
    """The gradient of the objective with respect to the parameters.

    Args:
        forward: see `Forward`.
        loss: whose objective is differentiated.
        state: its `params` and `model_state` are used; it is not changed.
        batch: arrays (B, ...) of one device's share, or of all devices under jit.
        total: adds a tree over devices.
        num_microbatches: each device's B must be a multiple.

    One microbatch is one pass. With several, a loss whose objective is not linear needs a forward
    pass over all of them first, for the sums (as GradCache does for a contrastive loss: Gao et al.,
    2021, arXiv:2101.06983). Loss and gradient are those of the whole batch within rounding, with
    one exception: batch statistics are those of a microbatch, over all devices, and the running
    ones move with each microbatch that has real examples.
    """

    def objective_gradient(sums: PyTree) -> PyTree:
        return jax.grad(loss.objective)(total(sums))

    if num_microbatches == 1:
        return _pull_back(forward, state, batch, objective_gradient)

    microbatches = split(batch, num_microbatches)
    if loss.linear:
        statistics, _ = jax.eval_shape(forward, state.params, state.model_state, batch)
        sums = {name: jnp.zeros(s.shape, s.dtype) for name, s in statistics.items()}
        sums["examples"] = batch["weight"].sum()
    else:
        _, sums = _add_over_microbatches(
            lambda _, part: (None, forward(state.params, state.model_state, part)[0]),
            None,
            microbatches,
        )
    gradient = objective_gradient(sums)

    def add_microbatch(model_state: PyTree, microbatch: PyTree) -> Result:
        before = state.replace(model_state=model_state)
        after, terms = _pull_back(forward, before, microbatch, lambda _: gradient)
        has_examples = total(microbatch["weight"].sum()) > 0
        return jax.tree.map(lambda a, b: jnp.where(has_examples, a, b), after, model_state), terms

    return _add_over_microbatches(add_microbatch, state.model_state, microbatches)


def split(batch: PyTree, num_microbatches: int) -> PyTree:
    """Arrays (B, ...) as (n, B / n, ...): microbatch j has the rows j, j + n, j + 2n, ...

    So every device keeps its rows and has an equal share of each microbatch, a microbatch has the
    same rows under any number of devices, and padding, the last rows, is spread evenly.
    """
    return jax.tree.map(
        lambda rows: rows.reshape(-1, num_microbatches, *rows.shape[1:]).swapaxes(0, 1), batch
    )


def _pull_back(
    forward: Forward,
    state: TrainState,
    batch: PyTree,
    gradient_of: Callable[[PyTree], PyTree],
) -> Result:
    """`gradient_of(statistics)`, pulled back to the parameters through `forward`."""
    statistics, pullback, (model_state, reported) = jax.vjp(
        lambda params: forward(params, state.model_state, batch), state.params, has_aux=True
    )
    (gradients,) = pullback(gradient_of(statistics))
    return model_state, (gradients, {**reported, **statistics})


def _add_over_microbatches(
    step: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]], carry: PyTree, microbatches: PyTree
) -> tuple[PyTree, PyTree]:
    """The last carry of `step(carry, microbatch) -> (carry, terms)`, and the sum of its terms."""
    first = jax.tree.map(lambda rows: rows[0], microbatches)
    _, shapes = jax.eval_shape(step, carry, first)
    zeros = jax.tree.map(lambda term: jnp.zeros(term.shape, term.dtype), shapes)

    # A loop in the compiled program: on a CPU, XLA would run copies of the step side by side, with
    # the memory of the whole batch.
    def body(carry_and_total: PyTree, microbatch: PyTree) -> tuple[PyTree, None]:
        carry, total = carry_and_total
        carry, terms = step(carry, microbatch)
        return (carry, jax.tree.map(jnp.add, total, terms)), None

    (carry, total), _ = jax.lax.scan(body, (carry, zeros), microbatches)
    return carry, total
