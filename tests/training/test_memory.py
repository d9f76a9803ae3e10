"""The memory a compiled step needs, compared with the arrays it is made of; and its advice."""

import json
import logging
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from configs import flexunet
from mbh_jax.errors import UserError
from mbh_jax.log import log
from mbh_jax.training import memory

ROWS = jax.ShapeDtypeStruct((256, 1024), jnp.float32)  # 1 MiB


def test_an_array_given_away_counts_once():
    program = jax.jit(lambda x, y: (x + 1, y.sum()))
    kept = memory.estimate(program.lower(ROWS, ROWS).compile())
    given = memory.estimate(jax.jit(program, donate_argnums=0).lower(ROWS, ROWS).compile())
    assert kept.held == pytest.approx(3 * 2**20, abs=256)
    assert given.held == pytest.approx(2 * 2**20, abs=256)


def test_what_is_neither_argument_nor_result_is_workspace():
    program = jax.jit(lambda x: jnp.sin(x.T @ x).sum())  # the product is 4 MiB
    need = memory.estimate(program.lower(ROWS).compile())
    assert need.held == pytest.approx(2**20, abs=256)
    assert 4 * 2**20 <= need.workspace <= 10 * 2**20
    assert need.total == need.held + need.workspace


DEVICES_PROGRAM = """
import json, jax, jax.numpy as jnp
from mbh_jax.runtime import parallel
from mbh_jax.training import memory

def step(state, batch, rng, *, axis_name):
    return state + 1, {"sum": batch["image"].sum()}

state = jax.ShapeDtypeStruct((256, 1024), jnp.float32)
held = []
for mode in parallel.MODES:
    how = parallel.create_parallel(mode)
    shape = (4, 64, 1024) if mode == "pmap" else (256, 1024)
    batch = {"image": jax.ShapeDtypeStruct(shape, jnp.float32)}
    compiled = parallel.compile_train_step(step, how).lower(state, batch, jax.random.key(0))
    held.append(memory.estimate(compiled.compile()).held)
print(json.dumps(held))
"""


def test_a_device_holds_the_whole_state_and_its_share_of_the_batch():
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", DEVICES_PROGRAM],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == pytest.approx([1.25 * 2**20] * 2, abs=1024)


@pytest.fixture
def compiled():
    return jax.jit(lambda x: x + 1).lower(ROWS).compile()


@pytest.fixture
def messages(caplog, monkeypatch):
    monkeypatch.setattr(log, "propagate", True)
    caplog.set_level(logging.INFO, logger=log.name)
    return lambda: caplog.messages


def test_the_need_is_told_beside_what_the_device_has(compiled, messages):
    memory.report(compiled, flexunet.get_config())
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / jax.local_device_count()
    assert messages() == [
        "memory: 2.0 MiB a device (2.0 MiB state and batch, 0.0 MiB activations and workspace) "
        f"of {has / 2**30:.1f} GiB"
    ]


def test_a_call_of_steps_and_resident_slices_are_told(compiled, messages):
    config = flexunet.get_config()
    config.data.resident = True
    memory.report(compiled, config, 3)
    assert messages()[0].startswith(
        "memory: 2.0 MiB a device in a call of 3 steps (2.0 MiB state, batch and resident slices, "
    )


def test_a_need_beyond_the_device_is_a_warning_with_suggestions(compiled, messages, monkeypatch):
    monkeypatch.setattr(memory, "device_capacity", lambda device: 2**20)
    memory.report(compiled, flexunet.get_config())
    assert messages()[1:] == [
        "memory: the training step will not fit: try, in this order, "
        "--config.train.accumulate_steps=2, --config.model.dtype=bfloat16, "
        "--config.train.batch_size=1, --config.data.image_size=256"
    ]


def test_suggestions_are_valid_and_leave_out_what_is_done_already():
    config = flexunet.get_config()
    assert memory.suggestions(config, 1, "gpu") == (
        "try, in this order, --config.train.accumulate_steps=2, --config.model.remat=True, "
        "--config.model.dtype=bfloat16, --config.train.batch_size=1, --config.data.image_size=256"
    )
    config.train.update(batch_size=24, accumulate_steps=2)
    config.model.update(remat=True, dtype="bfloat16")
    assert memory.suggestions(config, 4, "gpu") == (
        "try, in this order, --config.train.accumulate_steps=3, --config.data.image_size=256"
    )
    config.train.update(batch_size=1, accumulate_steps=1)
    config.data.image_size = 128
    assert memory.suggestions(config, 1, "gpu") == "a device with more memory is needed"
    config.data.resident = True
    assert memory.suggestions(config, 1, "gpu") == (
        "try, in this order, --config.data.resident=False"
    )


def test_running_out_of_memory_is_one_line():
    config = flexunet.get_config()
    message = r"out of memory on the device \(.*1125899906842624 bytes\): try.*accumulate_steps=2"
    with pytest.raises(UserError, match=message) as caught, memory.out_of_memory_errors(config):
        jnp.zeros(2**50, jnp.uint8).block_until_ready()
    assert "\n" not in str(caught.value)


def test_other_errors_of_the_device_stay_what_they_are():
    error = jax.errors.JaxRuntimeError("INTERNAL: something else")
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        memory.out_of_memory_errors(flexunet.get_config()),
    ):
        raise error
