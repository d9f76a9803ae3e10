"""Writes a trained network into one file, to share it or to run it without this package.

    python -m mbh_jax.export --model=runs/quickstart --output=quickstart.zip
    python -m mbh_jax.export --model=runs/quickstart --format=stablehlo --output=quickstart_hlo.zip
    python -m mbh_jax.export --model=runs/quickstart --format=onnx --output=quickstart.onnx

For research: not a medical device.
"""

from mbh_jax.errors import end_at_first_signal

if __name__ == "__main__":
    end_at_first_signal()  # Before the imports, which take a while.

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from etils import epath

import mbh_jax
from mbh_jax import files
from mbh_jax.errors import UserError, one_line_errors, use_default_signals
from mbh_jax.log import log, start_logging

SUFFIXES = {"bundle": ".zip", "stablehlo": ".zip", "onnx": ".onnx"}
"""The formats, and how their files' names end."""

_DISCLAIMER = "research only: not a medical device"


def export(
    model: str | os.PathLike,
    output: str | os.PathLike,
    *,
    form: str = "bundle",
    checkpoint: str = "best",
    licence: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a trained network into one file, which is whole or absent.

    Args:
        model: workdir of a run; for other forms than "bundle" also a bundle.
        output: the file.
        form: a key of `SUFFIXES`.
        checkpoint: "best" or "last".
        licence: of the weights, for the model card.
        overwrite: replace a file that is there.

    Raises:
        UserError: there is no such network, it cannot be written so, or the file is there.
    """
    from mbh_jax.data import spacing
    from mbh_jax.interop import model_card, onnx_export, stablehlo_export
    from mbh_jax.runtime.parallel import create_parallel
    from mbh_jax.training import bundle, pretrained
    from mbh_jax.training.checkpoints import Checkpoints
    from mbh_jax.training.network import restore_network

    source = pretrained.source_path(os.fspath(model), "--model")
    output = files.user_path(os.fspath(output), "--output")
    _check_output(output, form, overwrite)
    from_bundle = bundle.is_bundle(source)
    if from_bundle:
        card = bundle.read_card(source)
        if form == "bundle":
            raise UserError(f"{source} is a bundle already: copy it, or give --format")
        if licence:
            raise UserError(f"--licence: {source} has a model card with a licence: leave it out")
    parallel = create_parallel("jit")
    trained = restore_network(source, parallel, checkpoint=checkpoint)
    if not from_bundle:
        with Checkpoints(source, parallel) as checkpoints:
            record = checkpoints.last_record()
        dataset = record["dataset"] if record is not None else None
        facts = bundle.Facts(
            checkpoint,
            trained.step,
            dataset,
            mbh_jax.__version__,
            spacing.to_json(trained.spacing),
        )
        name = source.name or Path.cwd().name
        card = model_card.model_card(name, trained, facts, source, licence)
    if form == "bundle":
        bundle.write(output, trained.network.config, trained.variables, facts, card)
    elif form == "stablehlo":
        stablehlo_export.write(output, trained, card)
    else:
        difference = onnx_export.write(output, trained, card)
        log.info("logits of onnxruntime and JAX differ by at most %.2g", difference)


def _check_output(output: epath.Path, form: str, overwrite: bool) -> None:
    """Refuses a name that the file cannot have."""
    if output.suffix != SUFFIXES[form]:
        raise UserError(
            f"--output {output}: a file of --format={form} must end in {SUFFIXES[form]}"
        )
    if output.is_dir():
        raise UserError(f"--output {output} is a folder: give a file")
    if output.exists() and not overwrite:
        raise UserError(f"--output {output} exists: give --overwrite to replace it")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mbh_jax.export",
        description=(__doc__ or "").splitlines()[0],
        epilog=_DISCLAIMER,
    )
    parser.add_argument("--model", required=True, help="workdir of a run, a bundle, or phantom")
    parser.add_argument("--output", required=True, help="the file to write")
    parser.add_argument(
        "--format",
        choices=list(SUFFIXES),
        default="bundle",
        help="bundle: for this program (default); stablehlo: HU in, labels out, needs only jax; "
        "onnx: HU at the network's image size in, logits out",
    )
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best")
    parser.add_argument("--licence", help="licence of the weights, for the model card")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    chosen = parser.parse_args(arguments)
    start_logging()
    with one_line_errors():
        use_default_signals()
        export(
            chosen.model,
            chosen.output,
            form=chosen.format,
            checkpoint=chosen.checkpoint,
            licence=chosen.licence,
            overwrite=chosen.overwrite,
        )
        print(f"wrote {chosen.output}")
        print(_DISCLAIMER)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
