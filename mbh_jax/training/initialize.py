"""How a run begins: anew, with given weights, or where it stood when it was stopped."""

from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from mbh_jax import config as config_rules
from mbh_jax.errors import UserError
from mbh_jax.log import log
from mbh_jax.reporting import writers
from mbh_jax.runtime import distributed
from mbh_jax.runtime.parallel import create_parallel
from mbh_jax.training.checkpoints import Checkpoints
from mbh_jax.training.run_state import RunRecord, check_same_network, check_same_run
from mbh_jax.training.setup import Experiment, create_experiment
from mbh_jax.training.train_state import TrainState

PyTree = Any


def begin_or_resume(
    experiment: Experiment, saved: Checkpoints, workdir: epath.Path
) -> tuple[TrainState, RunRecord]:
    """The state to go on from: the last checkpoint's, given weights, or a new one.

    Raises:
        UserError: the workdir holds a run of another configuration or another dataset.
    """
    config = experiment.config
    patience = config.train.early_stopping_patience
    record = saved.last_record()
    if record is not None:
        check_same_run(record, config, experiment.index.fingerprint, workdir)
        restored = saved.restore_last(experiment.template)
        log.info("%s: going on after step %d", workdir, restored.step)
        return restored.arrays, RunRecord.from_json(restored.record, patience)
    saved.discard_best()
    state = experiment.init()
    if saved.has_initial():
        check_same_network(config, workdir)
        initial = saved.restore_variables("initial", experiment.template.variables)
        log.info("%s: beginning with the weights given there", workdir)
        state = state.with_variables(initial.arrays)
    return state, RunRecord.begin(patience)


def begin_from_variables(config: ConfigDict, workdir: epath.Path, variables: PyTree) -> None:
    """Makes a workdir that evaluation takes up as it is, and training begins with.

    Args:
        config: what the run is to be; `config.json` keeps it.
        workdir: a folder without a run.
        variables: the model's variables.

    Raises:
        UserError: the configuration is wrong, or the workdir holds a run.
    """
    config_rules.validate(config, jax.device_count())
    how = create_parallel(config.parallel.mode)
    with Checkpoints(workdir, how) as saved:
        if saved.has_initial() or saved.last_record() is not None:
            raise UserError(f"{workdir} already holds a run: give another --workdir")
        if distributed.is_primary():
            writers.write_config(workdir, config)
        saved.save_initial(variables, {})
    log.info("wrote %s", workdir)


def begin_from_run(config: ConfigDict, workdir: epath.Path, source: epath.Path) -> None:
    """Makes a new run begin with the weights of another one; a run that has begun is left alone.

    Args:
        config: what the run is to be; `config.eval.checkpoint` says which checkpoint of `source`.
        workdir: the run's folder.
        source: the folder of a run with the same network and input.

    Raises:
        UserError: there is no such checkpoint, or the networks differ.
    """
    check_same_network(config, source)
    experiment = create_experiment(config)
    with Checkpoints(workdir, experiment.parallel) as saved:
        if saved.has_initial() or saved.last_record() is not None:
            return
    with Checkpoints(source, experiment.parallel) as other:
        restored = other.restore_variables(config.eval.checkpoint, experiment.template.variables)
    log.info("%s: weights of step %d", source, restored.step)
    begin_from_variables(config, workdir, restored.arrays)
