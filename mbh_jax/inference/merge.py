"""The results of many processes put together."""

from collections.abc import Sequence
from pathlib import Path

from mbh_jax.errors import UserError
from mbh_jax.imageio.readers import Scan
from mbh_jax.inference import results
from mbh_jax.log import log

_NAMED = 20
"""So many missing scans are named; of more, the number is given."""


def merge(output: Path, expected: Sequence[Scan] | None = None) -> tuple[int, list[str]]:
    """Writes volumes.csv over the finished scans of a folder, whatever shard they are of.

    Args:
        output: folder of the results.
        expected: all scans that should be there, or None where that is not known.

    Returns:
        How many scans are in the table, and what is missing, a line each.

    Raises:
        UserError: there are no results, or they are of different models or settings.
    """
    made_by = results.finished(output)
    if not made_by:
        raise UserError(f"{output}: holds no finished scans: predict first, or give another folder")
    first = next(iter(made_by))
    for name in made_by:
        if made_by[name] != made_by[first]:
            raise UserError(
                f"{output}: {first}.json and {name}.json were made with different models or "
                "settings: predict one of them again with --overwrite, or remove it"
            )
    names = sorted(made_by)
    missing = []
    if expected is not None:
        wanted = {scan.name for scan in expected}
        missing = [scan.name for scan in expected if scan.name not in made_by]
        names = [name for name in names if name in wanted]
        if others := len(made_by) - len(names):
            log.info("left out: %d finished scans that are not in --input", others)
    results.write_table(output, names, made_by[first])
    lines = [f"{name}: not predicted" for name in missing[:_NAMED]]
    if len(missing) > _NAMED:
        lines.append(f"and {len(missing) - _NAMED} more scans that are not predicted")
    return len(names), lines
