"""How fast scans are converted to records and read back, and how large the records are.

    python -m benchmarks.data_prep                        # creates 12 phantoms of 512 x 512
    python -m benchmarks.data_prep --source label_192.zip --workers 1,2,8

It prints Markdown: the conversion by number of workers (rate, CPU seconds, peak memory of all
processes together), the peak memory for half of the volumes, and for each encoding of a slice its
size, the time to write it and how fast tf.data reads it. The last column of the first table is the
time that all of BHSD (6,404 slices) would take at that rate.
"""

import argparse
import functools
import importlib.metadata
import io
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from PIL import Image

from data_prep import sources
from data_prep.phantom.dataset import DatasetSpec, write_volumes
from mbh_jax.data.index import SPLIT_NAMES, SliceIndex
from mbh_jax.errors import one_line_errors

BHSD_SLICES = 6404
_POLL_S = 0.05
_TIMED_SLICES = 96


class Usage(NamedTuple):
    """Time and peak memory of a command, of all its processes together."""

    wall_s: float
    cpu_s: float
    peak_mb: float


class Encoding(NamedTuple):
    """An encoding of a plane of int16 HU, and the TensorFlow function that decodes it."""

    encode: Callable[[np.ndarray], bytes]
    decode: Callable


class Reading(NamedTuple):
    """Slices read per second, and CPU milliseconds per slice."""

    slices_per_s: float
    cpu_ms: float


def measure(command: Sequence[str]) -> Usage:
    """Runs a command to its end and measures it with its child processes."""
    before = os.times()
    start = time.monotonic()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(one.memory_full_info().uss for one in family))
        except psutil.Error:
            pass  # A process ended between the two calls.
        time.sleep(_POLL_S)
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command)} failed")
    after = os.times()
    cpu_s = after.children_user + after.children_system
    cpu_s -= before.children_user + before.children_system
    return Usage(time.monotonic() - start, cpu_s, peak / 1e6)


def convert(source: Path, output: Path, workers: int) -> Usage:
    """Converts a source in a separate process."""
    shutil.rmtree(output, ignore_errors=True)
    arguments = f"--split patient --workers {workers} --source".split()
    command = [sys.executable, "-m", "data_prep.build_tfrecords", *arguments, str(source)]
    return measure([*command, "--output", str(output)])


def half_of(source: Path, folder: Path) -> Path:
    """A folder with links to every second volume of a folder in BHSD's layout."""
    for kind in ("images", "ground truths"):
        (folder / kind).mkdir(parents=True)
        for file in sorted((source / kind).iterdir())[::2]:
            (folder / kind / file.name).symlink_to(file.resolve())
    return folder


def planes_of(source: Path, number: int) -> list[np.ndarray]:
    """The first `number` slices of a source: (rows, columns) int16 HU each."""
    planes: list[np.ndarray] = []
    for case in sources.open_source(source).cases:
        planes += list(sources.read_case(case).volume.hu)
        if len(planes) >= number:
            break
    return planes[:number]


def encodings() -> dict[str, Encoding]:
    """{name: encoding}: raw, zlib at three levels, and 16-bit PNG."""
    import tensorflow as tf

    def as_png(plane: np.ndarray) -> bytes:
        stream = io.BytesIO()
        Image.fromarray((plane.astype(np.int32) + 32768).astype(np.uint16)).save(stream, "PNG")
        return stream.getvalue()

    def as_zlib(level: int, plane: np.ndarray) -> bytes:
        return zlib.compress(plane.tobytes(), level)

    def from_zlib(content: tf.Tensor) -> tf.Tensor:
        return tf.io.decode_raw(tf.io.decode_compressed(content, "ZLIB"), tf.int16)

    found = {
        "raw": Encoding(np.ndarray.tobytes, lambda content: tf.io.decode_raw(content, tf.int16))
    }
    for level in (1, 4, 6):
        found[f"zlib, level {level}"] = Encoding(functools.partial(as_zlib, level), from_zlib)
    found["PNG, 16 bits"] = Encoding(
        as_png, lambda content: tf.io.decode_png(content, channels=1, dtype=tf.uint16)
    )
    return found


def time_encoding(
    encoding: Encoding, planes: Sequence[np.ndarray], path: Path
) -> tuple[float, float, Reading]:
    """Bytes per slice, CPU milliseconds to encode one, and how fast tf.data reads them."""
    import tensorflow as tf

    start_s = time.process_time()
    encoded = [encoding.encode(plane) for plane in planes]
    encode_ms = 1000 * (time.process_time() - start_s) / len(planes)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for content in encoded:
            writer.write(content)
    dataset = tf.data.TFRecordDataset(str(path)).map(
        encoding.decode, num_parallel_calls=tf.data.AUTOTUNE
    )
    reading = _fastest([dataset] * 5, len(planes))
    return sum(map(len, encoded)) / len(encoded), encode_ms, reading


def _fastest(readings: Iterable[Iterable], num_slices: int) -> Reading:
    """The fastest of several readings of the same slices."""
    found = []
    for batches in readings:
        start_s, start_cpu_s = time.monotonic(), time.process_time()
        for _ in batches:
            pass
        wall_s, cpu_s = time.monotonic() - start_s, time.process_time() - start_cpu_s
        found.append(Reading(num_slices / wall_s, 1000 * cpu_s / num_slices))
    return max(found)


def read_back(output: Path) -> Reading:
    """How fast the training pipeline reads a dataset, in its shuffled order."""
    from mbh_jax.data import pipeline

    index = SliceIndex.load(output)
    examples = np.concatenate(
        [index.examples(split) for split in SPLIT_NAMES if index.num_examples(split)]
    )
    shapes = index.in_plane_shapes()
    epochs = (
        pipeline.batches(
            index,
            np.random.default_rng(epoch).permutation(examples),
            global_batch=8,
            resize_to=max(shapes) if len(shapes) > 1 else None,
        )
        for epoch in range(5)
    )
    return _fastest(epochs, len(examples))


def report(source: Path, workers: Sequence[int], scratch: Path) -> None:
    """Measures everything and prints the tables; `scratch` is an empty folder for its files."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    versions = [
        f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "tensorflow-datasets")
    ]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, ")
    print(", ".join(versions))
    output = scratch / "records"
    print("\n| workers | volumes/s | slices/s | CPU s a volume | peak MB | BHSD, minutes |")
    print("|---|---|---|---|---|---|")
    for number in workers:
        usage = convert(source, output, number)
        index = SliceIndex.load(output)
        volumes, slices = len(index.volumes), len(index)
        print(
            f"| {number} | {volumes / usage.wall_s:.2f} | {slices / usage.wall_s:.1f} | "
            f"{usage.cpu_s / volumes:.2f} | {usage.peak_mb:.0f} | "
            f"{BHSD_SLICES / slices * usage.wall_s / 60:.1f} |"
        )
    num_bytes = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    reading = read_back(output)
    print(
        f"\n{volumes} volumes, {slices} slices; {num_bytes / slices / 1e3:.0f} kB a slice on disk, "
        f"{BHSD_SLICES * num_bytes / slices / 1e9:.2f} GB for BHSD; the training pipeline reads "
        f"{reading.slices_per_s:.0f} slices/s ({reading.cpu_ms:.1f} CPU ms a slice)"
    )
    if source.is_dir():
        for number in (1, max(workers)):
            usage = convert(half_of(source, scratch / f"half{number}"), output, number)
            print(f"peak memory for half of the volumes, {number} workers: {usage.peak_mb:.0f} MB")
    planes = planes_of(source, _TIMED_SLICES)
    print("\n| encoding | kB a slice | encode, CPU ms | tf.data, slices/s | tf.data, CPU ms |")
    print("|---|---|---|---|---|")
    for name, encoding in encodings().items():
        size, encode_ms, reading = time_encoding(encoding, planes, scratch / "encoded.tfrecord")
        print(
            f"| {name} | {size / 1e3:.0f} | {encode_ms:.1f} | {reading.slices_per_s:.0f} | "
            f"{reading.cpu_ms:.1f} |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data_prep", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--source", type=Path, help="zip or folder of scans (default: phantoms)")
    parser.add_argument("--workers", default="1,2", help="numbers of workers to try (default: 1,2)")
    parser.add_argument("--num_volumes", type=int, default=12, help="phantoms (default: 12)")
    chosen = parser.parse_args(arguments)
    with one_line_errors(), tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        source = chosen.source or scratch / "phantom"
        if chosen.source is None:
            spec = DatasetSpec(chosen.num_volumes, seed=0, size=512, prevalence="bhsd")
            for _ in write_volumes(spec, source, workers=os.cpu_count() or 1):
                pass
        report(source, [int(number) for number in chosen.workers.split(",")], scratch)


if __name__ == "__main__":
    main()
