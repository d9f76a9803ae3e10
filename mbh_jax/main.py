"""Trains or evaluates: flags only.

    python -m mbh_jax.main --config=configs/flexunet.py [--workdir=runs/flexunet]
        [--mode=train|evaluate] [--init_from=WORKDIR] [--rules=mbhseg25,brats]
        [--config.data.dir=data/bhsd] [--config.SECTION.KEY=VALUE ...]
        [--distributed [--coordinator=HOST:PORT --num_processes=N --process_id=I]]

Run again with the same flags, a run that was stopped goes on; with --workdir alone too, since a
workdir holds its recipe. Exit codes: 0 done, 1 an error that one line explains, 74 another process
of the run was lost, 75 stopped with everything saved (by SIGTERM, Ctrl-C or the end of the
terminal), 130 interrupted by Ctrl-C before the run began, or by a second one.
"""

from mbh_jax.errors import UserError, end_at_first_signal

if __name__ == "__main__":
    end_at_first_signal()  # Before the imports, which take seconds.

from absl import flags

from mbh_jax import cli

_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate"],
    "train: train (or resume) and evaluate on the validation volumes; "
    "evaluate: evaluate a checkpoint on the volumes of config.eval.split.",
)
_INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "Workdir of another run, a bundle, or phantom, the weights of generated heads that come with "
    "the package: a new run starts with the weights of its "
    "config.eval.checkpoint; one that has begun goes on.",
)
_RULES = flags.DEFINE_list(
    "rules", [], "Challenges whose own scores --mode=evaluate adds: mbhseg25, brats."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other processes of this run; see docs/launching.md."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT where process 0 listens; under a scheduler it is found."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.", 0)


def main(command: cli.Command) -> None:
    """Does what `--mode` says."""
    if command.arguments:
        raise UserError(f"unexpected argument {command.arguments[0]!r}: options begin with --")
    from mbh_jax.evaluation.case_table import RULES
    from mbh_jax.inference.split import evaluate
    from mbh_jax.runtime import distributed
    from mbh_jax.runtime.preemption import StopRequest
    from mbh_jax.train import train
    from mbh_jax.training.pretrained import source_path

    config, workdir = command.config, command.workdir
    if _DISTRIBUTED.value:
        distributed.join(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    elif (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value) != (None, None, None):
        raise UserError("--coordinator, --num_processes and --process_id belong to --distributed")
    else:
        distributed.refuse_unjoined_processes()
    if _INIT_FROM.value is not None and _MODE.value != "train":
        raise UserError("--init_from belongs to --mode=train: evaluation takes --workdir's weights")
    if unknown := set(_RULES.value) - set(RULES):
        raise UserError(f"--rules={min(unknown)}: give {' or '.join(RULES)}")
    if _RULES.value and _MODE.value != "evaluate":
        raise UserError("--rules belongs to --mode=evaluate")
    distributed.start_devices()
    with distributed.lost_process_errors():
        if _MODE.value == "train":
            given = _INIT_FROM.value
            source = None if given is None else source_path(given, "--init_from")
            with StopRequest() as stop:
                train(config, workdir, stop, init_from=source)
                evaluate(config, workdir, stop, split="validation", checkpoint="best")
        else:
            with StopRequest() as stop:
                evaluate(
                    config,
                    workdir,
                    stop,
                    split=config.eval.split,
                    checkpoint=config.eval.checkpoint,
                    rules=_RULES.value,
                )


if __name__ == "__main__":
    cli.run(main, recipe_from=_INIT_FROM)
