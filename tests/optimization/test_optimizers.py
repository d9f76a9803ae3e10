"""Schedules, clipping and the plateau rule against what they are documented to do."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import flexunet
from mbh_jax.optimization import optimizers


@pytest.fixture
def config():
    return flexunet.get_config().optimizer


def test_constant_schedule_warms_up_linearly(config):
    config.warmup_epochs = 2.0
    schedule = optimizers.create_schedule(config, steps_per_epoch=5, num_epochs=10)
    np.testing.assert_allclose(
        [schedule(step) for step in (0, 5, 10, 40)],
        np.array([0.0, 0.5, 1.0, 1.0]) * config.learning_rate,
        rtol=1e-6,
    )


def test_cosine_schedule_ends_at_zero(config):
    config.schedule = "cosine"
    schedule = optimizers.create_schedule(config, steps_per_epoch=10, num_epochs=10)
    halfway = 0.5 * config.learning_rate
    np.testing.assert_allclose(schedule(0), config.learning_rate, rtol=1e-6)
    np.testing.assert_allclose(schedule(50), halfway, rtol=1e-6)
    np.testing.assert_allclose(schedule(100), 0.0, atol=1e-12)


def test_adam_steps_of_clipped_gradients_equal_the_published_algorithm(config):
    """Kingma and Ba 2015, algorithm 1, after clipping each component at 0.5."""
    transform = optimizers.create_optimizer(config, lambda _: config.learning_rate)
    parameter = jnp.array([1.0, -2.0])
    state = transform.init(parameter)
    m = v = np.zeros(2)
    value = np.array([1.0, -2.0])
    for t, raw in enumerate(([3.0, -0.1], [-0.2, 0.4], [0.9, 0.1]), start=1):
        updates, state = transform.update(jnp.array(raw), state, parameter)
        parameter = parameter + updates
        g = np.clip(raw, -0.5, 0.5)
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g**2
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + config.epsilon)
        value = value - config.learning_rate * step
    np.testing.assert_allclose(parameter, value, rtol=1e-6)


def scales(config, losses):
    plateau = optimizers.create_plateau(config)
    state = plateau.init(jnp.zeros(()))
    result = []
    for loss in losses:
        _, state = plateau.update({}, state, value=loss)
        result.append(float(state.scale))
    return result


def test_plateau_halves_after_four_epochs_without_a_better_loss(config):
    history = [1.0, 0.9, 0.95, 0.91, 0.9, 0.93, 0.92, 0.94, 0.93, 0.91, 0.5]
    assert scales(config, history) == [1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_plateau_patience_of_zero_never_reduces(config):
    config.plateau_patience = 0
    assert scales(config, [1.0] * 20) == [1.0] * 20
