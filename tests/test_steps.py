"""One step body, the same numbers on one device and on four, under pmap and under jit.

Runs in processes of its own, because the number of simulated devices is fixed when JAX starts.
"""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

SCRIPT = textwrap.dedent(
    """
    import json, sys
    import jax, numpy as np
    from configs import smoke
    from mbh_jax import losses, models, optimizers, parallel, steps
    from mbh_jax.labels import NUM_CLASSES
    from mbh_jax.train_state import TrainState

    loss_name, norm, real = sys.argv[1:]
    config = smoke.get_config()
    config.data.image_size = 16
    config.augment.flip = True
    config.augment.hu_noise_hu = 2.0
    config.model.norm = norm
    config.model.dropout_rate = 0.3

    def run(mode, num_devices):
        how = parallel.create_parallel(mode, jax.devices()[:num_devices])
        model = models.create_model(config.model, NUM_CLASSES, axis_name=how.axis_name)
        loss = losses.create_loss(loss_name, 1.0)
        optimizer = optimizers.create_optimizer(config.optimizer, lambda _: 1e-3)
        made = steps.create_steps(config, model, loss, optimizer)
        train = parallel.compile_train_step(made.train, how)
        evaluate = parallel.compile_eval_step(made.evaluate, how)
        image = np.zeros((1, 16, 16, 3), np.float32)
        plateau = optimizers.create_plateau(config.optimizer)
        state = TrainState.create(model.init(jax.random.key(0), image), optimizer, plateau)
        state = jax.device_put(state, how.replicated)
        rng = np.random.default_rng(0)
        weight = (np.arange(8) < int(real)).astype(np.float32)
        reported = []
        for _ in range(3):
            label = rng.integers(0, 6, (8, 16, 16)).astype(np.uint8)
            noise = rng.normal(0, 5, (8, 16, 16))
            batch = {
                "image": (20 + 10 * label + noise).astype(np.int16)[..., None],
                "label": label,
                "weight": weight,
                "example": np.where(weight > 0, rng.integers(0, 1000, 8), -1).astype(np.int32),
                "volume": np.zeros(8, np.int32),
                "slice_index": np.zeros(8, np.int32),
            }
            state, sums = train(state, parallel.put_batch(batch, how), jax.random.key(5))
            reported.append({
                "loss": float(loss.objective(sums)),
                "examples": float(sums["examples"]),
                "pixels": int(sums["confusion"].sum()),
                "dice": float(sums["dice_coef_multiclass"]),
            })
        rows = parallel.local_rows(evaluate(state.variables, parallel.put_batch(batch, how)), how)
        parameters = np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.params)])
        return {
            "steps": reported,
            "parameters": parameters[::37].tolist(),
            "statistics": [np.asarray(x).tolist() for x in jax.tree.leaves(state.model_state)],
            "evaluated": rows["cross_entropy"].tolist(),
            "confusion": rows["native_confusion"].sum((1, 2)).tolist(),
        }

    devices = (("pmap", 1), ("pmap", 4), ("jit", 1), ("jit", 4))
    print(json.dumps([run(mode, number) for mode, number in devices]))
    """
)


def run_all(loss, norm, real):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, loss, norm, str(real)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def flat(result):
    numbers = [[*step.values()] for step in result["steps"]]
    return np.concatenate([np.ravel(numbers), result["parameters"], np.ravel(result["evaluated"])])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "norm"), [("cross_entropy", "none"), ("cross_entropy_dice", "batch")]
)
def test_devices_and_modes_give_the_same_numbers_with_padded_batches(loss, norm):
    real = 5  # of 8: on four devices one has half a share and one has none
    reference, *others = run_all(loss, norm, real)
    assert [step["examples"] for step in reference["steps"]] == [real] * 3
    assert [step["pixels"] for step in reference["steps"]] == [real * 16 * 16] * 3
    assert reference["confusion"] == [16 * 16] * 8
    for other in others:
        np.testing.assert_allclose(flat(other), flat(reference), rtol=2e-4, atol=2e-5)
        for ours, theirs in zip(other["statistics"], reference["statistics"], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
