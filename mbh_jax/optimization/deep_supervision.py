"""Deep supervision: a loss at several resolutions of a network (Lee et al., 2015, arXiv:1409.5185).

The weights are nnU-Net's: each resolution counts half as much as the next finer one, the coarsest
does not count, and the weights add up to 1.
"""

import jax
import numpy as np

from mbh_jax.optimization.loss import Loss, Statistics

Logits = jax.Array | tuple[jax.Array, ...]


def level_weights(num_levels: int) -> np.ndarray:
    """(num_levels,) weights from the finest resolution to the coarsest; one level has weight 1."""
    weights = 0.5 ** np.arange(num_levels)
    if num_levels > 1:
        weights[-1] = 0
    return weights / weights.sum()


def deeply_supervised(loss: Loss) -> Loss:
    """`loss` at every resolution of a tuple of logits, weighted by `level_weights`.

    Logits are (B, H, W, K), (B, H/2, W/2, K), ... from the finest on; a label of a coarser
    resolution is the nearest pixel's. Statistics of coarser resolutions have the level before their
    names. Of one array of logits, as in validation, it is `loss` itself.
    """

    def statistics(logits: Logits, label: jax.Array) -> dict[str, jax.Array]:
        if not isinstance(logits, tuple):
            return loss.statistics(logits, label)
        found = loss.statistics(logits[0], label)
        for level in range(1, max(len(logits) - 1, 1)):  # The coarsest one has no weight.
            distance = 2**level
            nearest = label[:, distance // 2 :: distance, distance // 2 :: distance]
            rows = loss.statistics(logits[level], nearest)
            found |= {f"{level}/{name}": values for name, values in rows.items()}
        return found

    def objective(sums: Statistics) -> jax.Array:
        by_level: dict[int, dict[str, jax.Array]] = {0: {}}
        for name, value in sums.items():
            level, separator, rest = name.partition("/")
            number, key = (int(level), rest) if separator else (0, name)
            by_level.setdefault(number, {"examples": sums["examples"]})[key] = value
        objectives = [loss.objective(by_level[level]) for level in sorted(by_level)]
        # With more than one level there is one more, which has no weight.
        weights = level_weights(len(by_level) + (len(by_level) > 1))
        return sum(
            (float(w) * value for w, value in zip(weights[1:], objectives[1:], strict=False)),
            float(weights[0]) * objectives[0],
        )

    return Loss(statistics, objective, loss.linear)
