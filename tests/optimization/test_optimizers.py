"""Schedules, clipping and the plateau rule against what they are documented to do."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import flexunet
from mbh_jax.errors import UserError
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


def test_poly_is_nnunets_rule_after_the_warm_up(config):
    """Its learning rate after 500 of 1000 epochs is 0.0053589 (`poly_lr` of nnU-Net v2)."""
    config.schedule, config.learning_rate = "poly", 0.01
    schedule = optimizers.create_schedule(config, steps_per_epoch=250, num_epochs=1000)
    np.testing.assert_allclose(schedule(250 * 500), 0.0053589, rtol=1e-5)
    config.warmup_epochs = 100.0
    schedule = optimizers.create_schedule(config, steps_per_epoch=1, num_epochs=1100)
    np.testing.assert_allclose(
        [schedule(step) for step in (50, 100, 600, 1100)], [0.005, 0.01, 0.0053589, 0.0], rtol=1e-5
    )


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_a_schedule_longer_than_a_device_can_count_is_refused(config, schedule):
    config.schedule = schedule
    with pytest.raises(UserError, match="num_epochs, now 2147483648"):
        optimizers.create_schedule(config, steps_per_epoch=1, num_epochs=2**31)
    optimizers.create_schedule(config, steps_per_epoch=1, num_epochs=2**31 - 1)
    config.schedule = "constant"
    optimizers.create_schedule(config, steps_per_epoch=1, num_epochs=2**31)


PARAMS = {"kernel": np.array([[1.0, -2.0]]), "bias": np.array([3.0]), "scale": np.array([1.0])}
GRADIENTS = [
    {"kernel": np.array([[0.5, 1.0]]), "bias": np.array([-1.0]), "scale": np.array([0.1])},
    {"kernel": np.array([[-0.2, 0.3]]), "bias": np.array([0.4]), "scale": np.array([0.2])},
]


def stepped(config, name, **values):
    """Parameters after a step with each of the gradients, at a learning rate of 0.1."""
    config.name = name
    config.clip_value = 0.0
    with config.unlocked():
        config.update(values)
    transform = optimizers.create_optimizer(config, lambda _: 0.1)
    params = {name: jnp.asarray(value) for name, value in PARAMS.items()}
    state = transform.init(params)
    for gradient in GRADIENTS:
        updates, state = transform.update(
            {name: jnp.asarray(value) for name, value in gradient.items()}, state, params
        )
        params = {name: params[name] + updates[name] for name in params}
    return params


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_is_torchs_and_decays_kernels_alone(config, nesterov):
    """torch.optim.SGD: g += decay * w; b = momentum * b + g; w -= rate * (g + momentum * b | b)."""
    found = stepped(config, "sgd", momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    for name, start in PARAMS.items():
        weight, buffer = start.copy(), 0.0
        for gradient in GRADIENTS:
            g = gradient[name] + (0.01 * weight if name == "kernel" else 0.0)
            buffer = 0.9 * buffer + g
            weight = weight - 0.1 * (g + 0.9 * buffer if nesterov else buffer)
        np.testing.assert_allclose(found[name], weight, rtol=1e-6)


def test_adamw_decays_kernels_alone(config):
    decayed = stepped(config, "adamw", weight_decay=0.01)
    plain = stepped(config, "adamw", weight_decay=0.0)
    for name in ("bias", "scale"):
        np.testing.assert_array_equal(decayed[name], plain[name])
    # Loshchilov and Hutter, 2019: the decay does not pass through Adam's moments.
    first = PARAMS["kernel"]
    assert not np.allclose(decayed["kernel"], plain["kernel"])
    np.testing.assert_allclose(
        decayed["kernel"],
        plain["kernel"] - 0.1 * 0.01 * (first + (first - 0.1 * np.sign(GRADIENTS[0]["kernel"]))),
        rtol=1e-4,
    )
