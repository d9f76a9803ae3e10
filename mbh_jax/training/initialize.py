"""How a run starts: from new weights, from given ones, or from where it was stopped."""

from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from mbh_jax import files
from mbh_jax.errors import UserError
from mbh_jax.log import log
from mbh_jax.reporting.run_files import CONFIG_FILE
from mbh_jax.runtime import distributed
from mbh_jax.runtime.parallel import Parallel
from mbh_jax.training import network
from mbh_jax.training.checkpoints import Checkpoints
from mbh_jax.training.run_state import RunRecord, check_same_run
from mbh_jax.training.setup import Training
from mbh_jax.training.train_state import TrainState

PyTree = Any


def initialize_or_resume(
    training: Training, fingerprint: str, checkpoints: Checkpoints, workdir: epath.Path
) -> tuple[TrainState, RunRecord]:
    """The state to go on from: the last checkpoint's, given weights, or a new one.

    Args:
        training: what the run is made of.
        fingerprint: of its dataset.
        checkpoints: those of `workdir`.
        workdir: the run's folder.

    Raises:
        UserError: the workdir holds a run of another configuration or another dataset.
    """
    config = training.network.config
    patience = config.train.early_stopping_patience
    record = checkpoints.last_record()
    if record is not None:
        check_same_run(record, config, fingerprint, workdir)
        restored = checkpoints.restore_last(training.template)
        log.info("%s: going on after step %d", workdir, restored.step)
        return restored.arrays, RunRecord.from_json(restored.record, patience)
    checkpoints.discard_best()
    state = training.init()
    if checkpoints.has_initial():
        network.check_same_network(config, workdir)
        initial = checkpoints.restore_variables("initial", training.template.variables)
        log.info("%s: starting with the weights that it was initialized with", workdir)
        state = state.with_variables(initial.arrays)
    return state, RunRecord.new(patience)


def initialize_workdir(
    config: ConfigDict, workdir: epath.Path, variables: PyTree, parallel: Parallel
) -> None:
    """Makes a workdir that evaluation takes up as it is, and that training starts from.

    Args:
        config: what the run is to be, valid; `config.json` keeps it.
        workdir: a folder without a run.
        variables: the model's variables.
        parallel: the devices that hold them.

    Raises:
        UserError: the workdir holds a run.
    """
    with Checkpoints(workdir, parallel) as checkpoints:
        if _has_begun(checkpoints):
            raise UserError(f"{workdir} already holds a run: give another --workdir")
        if distributed.is_primary():
            files.write_json(workdir / CONFIG_FILE, config.to_dict())
        checkpoints.save_initial(variables, {})
    log.info("wrote %s", workdir)


def initialize_from(
    config: ConfigDict, workdir: epath.Path, source: epath.Path, parallel: Parallel
) -> None:
    """Lets a new run start with the weights of another one; a run that has begun is left alone.

    The two may differ in image size, windows (but not their number), loss, dataset and everything
    else that leaves the arrays alike; the last layer may differ too and is then new.

    Args:
        config: what the run is to be; `config.eval.checkpoint` says which checkpoint of `source`.
        workdir: the run's folder.
        source: the folder of another run, or a bundle.
        parallel: the devices that hold the weights.

    Raises:
        UserError: there is no such checkpoint, or its arrays do not fit.
    """
    with Checkpoints(workdir, parallel) as checkpoints:
        if _has_begun(checkpoints):
            return
    trained = network.restore_network(source, parallel, checkpoint=config.eval.checkpoint)
    new = jax.jit(network.create_network(config).init, out_shardings=parallel.replicated)()
    variables, left_out = network.fit_variables(new, trained.variables, str(source))
    log.info("%s: weights of step %d", source, trained.step)
    if left_out:
        log.info("not taken over, since their sizes differ: %s", "; ".join(left_out))
    initialize_workdir(config, workdir, variables, parallel)


def _has_begun(checkpoints: Checkpoints) -> bool:
    return checkpoints.has_initial() or checkpoints.last_record() is not None
