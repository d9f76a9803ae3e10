"""How fast slices come from TFRecords, and how long a training step waits for them.

    python -m benchmarks.input_pipeline                     # makes phantoms of --size 512
    python -m benchmarks.input_pipeline --data data/bhsd --recipe flexunet --batch 8

First it measures the pipeline alone, in the shuffled order of training: slices per second and CPU
time per slice. Then it measures the training step on batches of the pipeline, prefetched as in the
training loop, alternately with the same step on one batch that is already on the device. "waiting"
is the time that the loop spends waiting for its next batch; "slower" is how much longer the same
steps take with the pipeline, which on a CPU includes the cores that the pipeline itself uses.
"""

import argparse
import importlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import Spread
from mbh_jax.errors import UserError, one_line_errors


def make_phantoms(folder: Path, num_volumes: int, size: int) -> Path:
    """Writes phantom heads and converts them; returns the folder of the records."""
    from data_prep import build_tfrecords
    from data_prep.phantom.dataset import DatasetSpec, write_volumes

    spec = DatasetSpec(num_volumes, seed=0, size=size, prevalence="bhsd")
    for _ in write_volumes(spec, folder / "scans", workers=common.num_cores()):
        pass
    build_tfrecords.build(folder / "scans", folder / "records")
    return folder / "records"


def measure(data: Path, recipe: str, batch: int, repeats: int, steps: int) -> dict[str, Any]:
    """Measurements of every repeat, as lists "alone", "resident" and "pipeline"."""
    import jax

    from mbh_jax.data.loader import Loader
    from mbh_jax.data.sampling import Sampler
    from mbh_jax.runtime import xla
    from mbh_jax.runtime.parallel import Batch, create_parallel, prefetch
    from mbh_jax.training.setup import create_training

    config = importlib.import_module(f"configs.{recipe}").get_config()
    config.data.dir = str(data)
    config.train.batch_size = batch
    loader = Loader(config.data)
    examples = loader.index.examples("train", config.data.slices)
    if len(examples) < batch:
        raise UserError(f"{data}: {len(examples)} slices to train on, fewer than --batch {batch}")

    sampler = Sampler(config, loader.index, examples)

    def batches() -> Iterator[Batch]:
        for epoch in itertools.count():
            yield from loader.train_batches(sampler.order(epoch), global_batch=batch)

    found: dict[str, Any] = {"slices": len(examples), "image_size": config.data.image_size}
    found["alone"] = []
    source = batches()
    next(source)  # Starts its threads.
    for _ in range(repeats):
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        for _ in range(steps):
            next(source)
        wall_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
        found["alone"].append({"wall_s": wall_s, "cpu_s": cpu_s, "slices": steps * batch})

    parallel = create_parallel(config.parallel.mode)
    training = create_training(config, parallel, steps_per_epoch=sampler.num_batches)
    state, rng = training.init(), jax.random.key(0)
    prefetched = prefetch(batches(), parallel)
    _, resident = next(prefetched)
    step = xla.compile_lowered(training.compile_train(1).lower(state, resident, rng))
    state, sums = step(state, resident, rng)
    jax.block_until_ready(sums)
    found["resident"], found["pipeline"] = [], []
    for repeat in range(repeats):
        for name in ("resident", "pipeline")[:: -1 if repeat % 2 else 1]:
            waiting_s, start_s = 0.0, time.perf_counter()
            for _ in range(steps):
                arrays = resident
                if name == "pipeline":
                    wait_start_s = time.perf_counter()
                    _, arrays = next(prefetched)
                    waiting_s += time.perf_counter() - wait_start_s
                state, sums = step(state, arrays, rng)
                # Without this the loop would run ahead of the device, and wait for it in `next`.
                jax.block_until_ready(sums)
            wall_s = time.perf_counter() - start_s
            found[name].append({"step_s": wall_s / steps, "waiting": waiting_s / wall_s})
    return found


def describe(found: dict[str, Any], batch: int) -> str:
    """The result as a Markdown table."""
    slices_per_s = Spread.of(one["slices"] / one["wall_s"] for one in found["alone"])
    cpu_ms = Spread.of(1000 * one["cpu_s"] / one["slices"] for one in found["alone"])
    slower = Spread.of(
        100 * (mine["step_s"] / theirs["step_s"] - 1)
        for mine, theirs in zip(found["pipeline"], found["resident"], strict=True)
    )
    waiting = Spread.of(100 * one["waiting"] for one in found["pipeline"])
    needed = Spread.of(batch / one["step_s"] for one in found["resident"])
    rows = [
        ["pipeline alone, slices/s", f"{slices_per_s:.0f}"],
        ["CPU ms a slice", f"{cpu_ms:.2f}"],
        ["the step takes, slices/s", f"{needed:.1f}"],
        ["share of a step spent waiting, %", f"{waiting:.2f}"],
        ["the step with the pipeline is slower by, %", f"{slower:.1f}"],
    ]
    return common.table(["", "median (least-most)"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="converted dataset (default: makes phantoms)")
    parser.add_argument("--num_volumes", type=int, default=4, help="phantoms (default: 4)")
    parser.add_argument(
        "--size", type=int, default=512, help="image side of the phantoms (default: 512)"
    )
    parser.add_argument("--recipe", default="quickstart", help="a module of configs/")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5, help="(default: 5)")
    parser.add_argument("--steps", type=int, default=20, help="steps of one repeat (default: 20)")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    chosen = parser.parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with one_line_errors(), tempfile.TemporaryDirectory() as folder:
        machine = common.machine()
        data = chosen.data or make_phantoms(Path(folder), chosen.num_volumes, chosen.size)
        found = measure(data, chosen.recipe, chosen.batch, chosen.repeats, chosen.steps)
        print(common.describe_machine(machine, common.versions("jax", "tensorflow", "flax")))
        print(
            f"\n{found['slices']} slices; configs/{chosen.recipe}.py at {found['image_size']} x "
            f"{found['image_size']}, batch {chosen.batch}; {chosen.repeats} repeats of "
            f"{chosen.steps} steps\n"
        )
        print(describe(found, chosen.batch))
        common.write_json(chosen.json, {"machine": machine, **found})


if __name__ == "__main__":
    main()
