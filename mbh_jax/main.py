"""Trains or evaluates: flags only.

    python -m mbh_jax.main --config=configs/flexunet.py [--workdir=runs/flexunet]
        [--mode=train|evaluate] [--begin_with=WORKDIR]
        [--config.data.dir=data/bhsd] [--config.SECTION.KEY=VALUE ...]
        [--distributed [--coordinator=HOST:PORT --num_processes=N --process_id=I]]

Run again with the same flags, a run that was stopped goes on. Exit codes: 0 done, 1 an error that
one line explains, 74 another process of the run was lost, 75 stopped by SIGTERM or Ctrl-C with
everything saved, 130 interrupted by a second Ctrl-C.
"""

from absl import flags
from etils import epath
from ml_collections import ConfigDict

from mbh_jax import cli
from mbh_jax.errors import UserError

_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate"],
    "train: train (or resume) and evaluate on the validation volumes; "
    "evaluate: evaluate a checkpoint on the volumes of config.eval.split.",
)
_BEGIN_WITH = flags.DEFINE_string(
    "begin_with",
    None,
    "Workdir of another run, with whose config.eval.checkpoint a new run begins; "
    "one that has begun goes on.",
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other processes of this run; see docs/launching.md."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT where process 0 listens; schedulers tell it by themselves."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the run.", 1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.", 0)


def main(config: ConfigDict, workdir: epath.Path, arguments: list[str]) -> None:
    """Does what `--mode` says."""
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}: options begin with --")
    from mbh_jax import evaluate, train
    from mbh_jax.runtime import distributed
    from mbh_jax.training import initialize

    if _DISTRIBUTED.value:
        distributed.join(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    elif (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value) != (None, None, None):
        raise UserError("--coordinator, --num_processes and --process_id belong to --distributed")
    else:
        distributed.refuse_unjoined_processes()
    with distributed.lost_process_errors():
        if _MODE.value == "train":
            if _BEGIN_WITH.value is not None:
                initialize.begin_from_run(config, workdir, epath.Path(_BEGIN_WITH.value))
            train.train_and_evaluate(config, workdir)
        else:
            evaluate.evaluate_checkpoint(config, workdir)


if __name__ == "__main__":
    cli.run(main)
