"""Reading scans while others are predicted."""

import concurrent.futures
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mbh_jax.errors import UserError
from mbh_jax.imageio.readers import Scan
from mbh_jax.imageio.volume import Volume


def read_ahead(
    scans: Sequence[Scan], check: Callable[[Volume], None]
) -> Iterator[tuple[Scan, Any]]:
    """Yields each scan and its volume, or why it cannot be used, with one being read ahead.

    Args:
        scans: what to read, in this order.
        check: raises UserError for a volume that cannot be predicted.
    """

    def read(scan: Scan) -> Any:
        try:
            volume = scan.read()
        except UserError as error:
            return error
        try:
            check(volume)
        except UserError as error:
            return UserError(f"{scan.path}: {error}")
        return volume

    with concurrent.futures.ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, scans[0]) if scans else None
        for number, scan in enumerate(scans, 1):
            assert coming is not None
            volume = coming.result()
            coming = reader.submit(read, scans[number]) if number < len(scans) else None
            yield scan, volume
