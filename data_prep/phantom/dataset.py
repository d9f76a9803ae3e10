"""Writes a data set of phantom heads: the output folder, and volumes one by one or in parallel."""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path

from data_prep.phantom.head import Head, check_size, make_head
from data_prep.phantom.nifti import IMAGES, LABELS, write_head
from data_prep.phantom.plan import HeadPlan, plan_head
from data_prep.phantom.stored_headers import StoredHeader, make_head_like
from mbh_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """What to make; the arguments of `make_head` for volumes 0 to `num_volumes` - 1.

    Where there are `headers`, volume n has the names and the geometry of header n.
    """

    num_volumes: int
    seed: int
    size: int
    prevalence: str
    max_slices: int | None = None
    headers: tuple[StoredHeader, ...] = ()

    def plans(self) -> list[HeadPlan]:
        """The plans of all volumes.

        Raises:
            UserError: something asked for is out of range.
        """
        if self.num_volumes < 1:
            raise UserError(f"num_volumes {self.num_volumes} is out of range: give 1 or more")
        if self.headers and self.num_volumes > len(self.headers):
            raise UserError(
                f"num_volumes {self.num_volumes} is out of range: there are {len(self.headers)} "
                "headers"
            )
        if self.headers and self.max_slices is not None:
            raise UserError("max_slices and headers both say how many slices: give one of them")
        check_size(self.size, self.max_slices)
        return [self.plan(index) for index in range(self.num_volumes)]

    def plan(self, index: int) -> HeadPlan:
        """The plan of one volume."""
        plan = plan_head(self.seed, index, self.prevalence)
        if not self.headers:
            return plan
        stored = self.headers[index]
        return dataclasses.replace(plan, patient_id=stored.patient_id, study_id=stored.study_id)

    def head(self, index: int) -> Head:
        """Makes one volume."""
        if self.headers:
            return make_head_like(self.headers[index], self.plan(index), self.size)
        return make_head(self.seed, index, self.size, self.prevalence, self.max_slices)


def write_volumes(spec: DatasetSpec, output: Path, workers: int) -> Iterator[int]:
    """Makes and writes the volumes of `spec`, yielding each one's number of slices."""
    write = functools.partial(_write_volume, spec, output)
    if workers == 1:
        yield from map(write, range(spec.num_volumes))
        return
    # Not fork: the parent may have threads (BLAS, JAX).
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, spawn) as pool:
        yield from pool.map(write, range(spec.num_volumes))


def prepare_output(output: Path, overwrite: bool) -> None:
    """Makes the output folder ready to be written.

    Raises:
        UserError: it is a file, or it holds something and `overwrite` is not set, or what it holds
            is not a data set of this layout.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file: give a folder")
    there = sorted(child.name for child in output.iterdir()) if output.exists() else []
    if there and not overwrite:
        raise UserError(
            f"--output {output} is not empty: add --overwrite to replace it, or give another folder"
        )
    others = [name for name in there if name not in (IMAGES, LABELS)]
    if others:
        raise UserError(
            f"--output {output} holds {others[0]!r}, which is not part of a phantom data set: "
            "give another folder"
        )
    for name in there:
        shutil.rmtree(output / name)


def _write_volume(spec: DatasetSpec, output: Path, index: int) -> int:
    head = spec.head(index)
    write_head(head, output)
    return head.hu.shape[2]
