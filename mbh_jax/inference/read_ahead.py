"""Reading scans while others are predicted, and pictures in groups."""

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator, Sequence

from mbh_jax.errors import UserError
from mbh_jax.imageio.readers import Scan
from mbh_jax.imageio.volume import Volume

ReadScan = tuple[Scan, Volume | UserError]
"""A scan with its volume, or with why it cannot be used."""


def read_ahead(scans: Sequence[Scan], check: Callable[[Volume], None]) -> Iterator[ReadScan]:
    """Yields each scan and its volume, or why it cannot be used, with one being read ahead.

    Args:
        scans: what to read, in this order.
        check: raises UserError for a volume that cannot be predicted.
    """

    def read(scan: Scan) -> Volume | UserError:
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


def first_shape(scans: Sequence[Scan]) -> tuple[int, int, int]:
    """Slices, rows and columns of what `in_groups` gives first; of a group, 2 slices stand for all.

    Args:
        scans: at least one.

    Raises:
        UserError: it cannot be read.
    """
    shape = scans[0].read().shape
    if scans[0].is_picture and any(scan.read().shape == shape for scan in scans[1:2]):
        return (2, *shape[1:])
    return shape


def in_groups(read_scans: Iterable[ReadScan], number: int) -> Iterator[list[ReadScan]]:
    """Groups consecutive pictures of one size; any other scan, and what failed, stays alone.

    Args:
        read_scans: of `read_ahead`.
        number: pictures in a group, at most.
    """

    def key(one: ReadScan) -> tuple[int, ...] | None:
        scan, volume = one
        return volume.shape if scan.is_picture and isinstance(volume, Volume) else None

    waiting: list[ReadScan] = []
    for one in read_scans:
        if waiting and (len(waiting) == number or key(one) is None or key(one) != key(waiting[0])):
            yield waiting
            waiting = []
        waiting.append(one)
    if waiting:
        yield waiting
