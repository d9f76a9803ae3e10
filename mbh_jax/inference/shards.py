"""Many scans divided over many processes."""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from mbh_jax.imageio.readers import Scan


class Shard(NamedTuple):
    """One part of the scans: `number` from 1 to `total`."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard of a text such as "3/64", the third of 64, for `argparse`.

        Raises:
            ArgumentTypeError: it is none.
        """
        number, _, total = text.partition("/")
        digits = number.isascii() and number.isdigit() and total.isascii() and total.isdigit()
        if not digits or not 1 <= int(number) <= int(total):
            raise argparse.ArgumentTypeError(
                f"{text}: give the number of the shard and how many there are, from 1/64 to 64/64"
            )
        return cls(int(number), int(total))

    @property
    def suffix(self) -> str:
        """What the names of its tables end with, such as "_3_of_64"."""
        return f"_{self.number}_of_{self.total}"

    def of(self, scans: Sequence[Scan]) -> list[Scan]:
        """Its scans: each total-th one of the sorted list, so that every scan has one shard."""
        return list(scans[self.number - 1 :: self.total])
