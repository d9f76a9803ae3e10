"""Gradients of a loss of sums over a batch, which may be taken in parts: the memory is a part's.

The objective is a function of sums over all examples of all devices, not a mean of per-example
losses. Its gradient with respect to those sums is taken once; each device, and each part of a
batch, pulls it back through its own share of them. So the result is that of the whole batch
whatever its division.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mbh_jax.training.losses import Loss
from mbh_jax.training.train_state import TrainState

PyTree = Any

Forward = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, tuple[PyTree, PyTree]]]
"""`(params, model_state, batch) -> (statistics, (model_state, reported))`.

`statistics` are the loss's, added over the batch, with "examples"; `reported` are other sums.
"""

Result = tuple[PyTree, tuple[PyTree, PyTree]]
"""`(model_state, (gradients, sums))`: one device's share of gradients and sums."""


def of_batch(
    forward: Forward,
    loss: Loss,
    state: TrainState,
    batch: PyTree,
    *,
    total: Callable[[PyTree], PyTree],
    num_parts: int,
) -> Result:
    """The gradient of the objective with respect to the parameters.

    Args:
        forward: see `Forward`.
        loss: whose objective is differentiated.
        state: its `params` and `model_state` go in; it is not changed.
        batch: arrays (B, ...) of one device's share, or of all devices under jit.
        total: adds a tree over devices.
        num_parts: parts to take the batch in; each device's B must be a multiple.

    One part is one pass. Of several, a loss whose objective is not linear needs a forward pass over
    all of them, for the sums, before they are taken again for their gradients (as GradCache does
    for a contrastive loss: Gao et al., 2021, arXiv:2101.06983). Loss and gradient are those of one
    part within rounding, with one exception: batch statistics are those of a part, over all
    devices, and the running ones move with each part that has real examples.
    """

    def objective_gradient(sums: PyTree) -> PyTree:
        return jax.grad(loss.objective)(total(sums))

    if num_parts == 1:
        return _pull_back(forward, state, batch, objective_gradient)

    parts = split(batch, num_parts)
    if loss.linear:
        statistics, _ = jax.eval_shape(forward, state.params, state.model_state, batch)
        sums = {name: jnp.zeros(s.shape, s.dtype) for name, s in statistics.items()}
        sums["examples"] = batch["weight"].sum()
    else:
        _, sums = _add_over_parts(
            lambda _, part: (None, forward(state.params, state.model_state, part)[0]), None, parts
        )
    gradient = objective_gradient(sums)

    def add_part(model_state: PyTree, part: PyTree) -> Result:
        before = state.replace(model_state=model_state)
        after, terms = _pull_back(forward, before, part, lambda _: gradient)
        has_examples = total(part["weight"].sum()) > 0
        return jax.tree.map(lambda a, b: jnp.where(has_examples, a, b), after, model_state), terms

    return _add_over_parts(add_part, state.model_state, parts)


def split(batch: PyTree, num_parts: int) -> PyTree:
    """Arrays (B, ...) as (num_parts, B / num_parts, ...): part j is rows j, j + num_parts, ...

    Each part so holds an equal share of the rows of every device, which keep them; it is the same
    rows under any number of devices; and padding, the last rows, is spread over the parts.
    """
    return jax.tree.map(
        lambda rows: rows.reshape(-1, num_parts, *rows.shape[1:]).swapaxes(0, 1), batch
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


def _add_over_parts(
    step: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]], carry: PyTree, parts: PyTree
) -> tuple[PyTree, PyTree]:
    """The last carry of `step(carry, part) -> (carry, terms)`, and its terms added over `parts`."""
    first = jax.tree.map(lambda rows: rows[0], parts)
    _, shapes = jax.eval_shape(step, carry, first)
    zeros = jax.tree.map(lambda term: jnp.zeros(term.shape, term.dtype), shapes)

    # A loop of the compiled program. Copies of the step would need the memory of the whole batch on
    # a CPU, where XLA runs them side by side.
    def body(carry_and_total: PyTree, part: PyTree) -> tuple[PyTree, None]:
        carry, total = carry_and_total
        carry, terms = step(carry, part)
        return (carry, jax.tree.map(jnp.add, total, terms)), None

    (carry, total), _ = jax.lax.scan(body, (carry, zeros), parts)
    return carry, total
