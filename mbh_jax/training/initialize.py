"""How a run starts: from new weights, from given ones, or from where it was stopped."""

from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from mbh_jax import files
from mbh_jax.errors import UserError
from mbh_jax.files import CONFIG_FILE, HISTORY_FILE
from mbh_jax.log import log
from mbh_jax.runtime import distributed
from mbh_jax.runtime.parallel import Parallel
from mbh_jax.training import network
from mbh_jax.training.checkpoints import Checkpoints
from mbh_jax.training.run_state import RunRecord, check_same_run, differences
from mbh_jax.training.setup import Training
from mbh_jax.training.train_state import TrainState

PyTree = Any

_IS_INITIALIZED = "is_initialized"
"""Key in the record of step 0: whether the run starts with given weights."""


def initialize_or_resume(
    training: Training,
    fingerprints: Mapping[str, str | None],
    checkpoints: Checkpoints,
    workdir: epath.Path,
) -> tuple[TrainState, RunRecord]:
    """The state to go on from: the last checkpoint's, given weights, or a new one.

    A state that no step has been taken from is saved first, and read back: what cannot be written
    or read is found before it costs an epoch, and a workdir that holds results but no last state
    must have lost it.

    Args:
        training: what the run is made of.
        fingerprints: of its datasets.
        checkpoints: those of `workdir`.
        workdir: the run's folder.

    Raises:
        UserError: the workdir holds a run of another configuration or another dataset, or one that
            has lost its last state.
    """
    config = training.network.config
    patience = config.train.early_stopping_patience
    record = checkpoints.last_record()
    if record is None:
        _refuse_lost_run(checkpoints, workdir, is_initialized=checkpoints.has("initial"))
    elif not _may_start_anew(record, config, fingerprints, checkpoints, workdir):
        check_same_run(record, config, fingerprints, workdir)
        try:
            restored = checkpoints.restore_last(training.template)
        except UserError:
            if not checkpoints.has("last"):
                _refuse_lost_run(checkpoints, workdir, is_initialized=False)
            raise
        resumed = RunRecord.from_json(restored.record, patience)
        if restored.step:
            log.info("%s: going on after step %d", workdir, restored.step)
        if resumed.epoch >= config.train.num_epochs:
            log.info("all %d epochs are done: train.num_epochs adds more", resumed.epoch)
        return restored.arrays, resumed
    is_initialized = checkpoints.has("initial")
    distributed.wait_for_all()  # All have looked at what is changed now.
    if distributed.is_primary() and not is_initialized:
        # It would be that of a lost run if this one were killed before it has saved its state.
        (workdir / CONFIG_FILE).unlink(missing_ok=True)
    checkpoints.discard_best()
    state = training.init()
    if is_initialized:
        network.check_same_network(config, workdir)
        initial = checkpoints.restore_variables("initial", training.template.variables)
        log.info("%s: starting with the weights that it was initialized with", workdir)
        state = state.with_variables(initial.arrays)
    elif record is not None and record.get(_IS_INITIALIZED):
        raise UserError(
            f"{workdir} has lost the weights that it was initialized with (checkpoints/initial): "
            "give --init_from and another --workdir"
        )
    new = RunRecord.new(patience)
    checkpoints.save_first(
        state, new.to_json(config, fingerprints) | {_IS_INITIALIZED: is_initialized}
    )
    return state, new


def _may_start_anew(
    record: dict[str, Any],
    config: ConfigDict,
    fingerprints: Mapping[str, str | None],
    checkpoints: Checkpoints,
    workdir: epath.Path,
) -> bool:
    """Whether a run has taken no step, and is to be another now (a smaller batch, say)."""
    has_other_data = any(record.get(name) != value for name, value in fingerprints.items())
    is_another = has_other_data or bool(differences(record["config"], config))
    has_results = checkpoints.has("best") or (workdir / HISTORY_FILE).exists()
    return is_another and not (record["epoch"] or record["batch"] or has_results)


def _refuse_lost_run(
    checkpoints: Checkpoints, workdir: epath.Path, *, is_initialized: bool
) -> None:
    """Refuses to start anew over what is left of a run whose whole state is missing.

    The configuration alone shows that there was a run, unless there are weights to start with: then
    it is written before the run starts.
    """
    has_config = (workdir / CONFIG_FILE).exists()
    has_history = (workdir / HISTORY_FILE).exists()
    left = [f"checkpoints/{name}" for name in checkpoints.contents()]
    results = [name for name in left if not name.startswith("checkpoints/initial")]
    if not (has_history or (has_config and (results or not is_initialized))):
        return
    left += [HISTORY_FILE] * has_history + [CONFIG_FILE] * has_config
    has_weights = has_config and checkpoints.has("best")
    raise UserError(
        f"{workdir} holds a run whose last state is missing or damaged (there are "
        f"{', '.join(left)}), and training would overwrite it: give another --workdir"
        + (f", and --init_from={workdir} to start with its best weights" if has_weights else "")
    )


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
        _refuse_lost_run(checkpoints, workdir, is_initialized=True)
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
            log.info("%s has been initialized before: --init_from is not used again", workdir)
            return
    trained = network.restore_network(source, parallel, checkpoint=config.eval.checkpoint)
    new = jax.jit(network.create_network(config).init, out_shardings=parallel.replicated)()
    variables, left_out = network.fit_variables(new, trained.variables, str(source))
    log.info("%s: weights of step %d", source, trained.step)
    if left_out:
        log.info("not taken over, since their sizes differ: %s", "; ".join(left_out))
    initialize_workdir(config, workdir, variables, parallel)


def _has_begun(checkpoints: Checkpoints) -> bool:
    return checkpoints.has("initial") or checkpoints.last_record() is not None
