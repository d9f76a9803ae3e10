"""Training from slices in device memory: the numbers of streamed records, without TensorFlow."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest
import run_commands
from ml_collections import ConfigDict
from run_commands import assert_same_numbers
from tiny_ct import enlarge_one_volume

from data_prep import build_tfrecords, pack_dataset
from mbh_jax.data import resident
from mbh_jax.data.loader import Loader
from mbh_jax.data.packed import PackedSlices, packed_dir
from mbh_jax.errors import UserError
from mbh_jax.runtime.parallel import create_parallel
from mbh_jax.training import memory
from mbh_jax.training.validation import validate


@pytest.fixture(scope="module")
def packed_dataset(tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed copy of the tiny dataset; do not change it."""
    copy = shutil.copytree(tiny_dataset_dir, tmp_path_factory.mktemp("packed") / "dataset")
    pack_dataset.main([f"--data_dir={copy}"])
    return copy


@pytest.fixture(scope="module")
def without_records(packed_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without its TFRecord files; do not change it."""
    ignored = shutil.ignore_patterns("*.tfrecord*")
    target = tmp_path_factory.mktemp("without") / "dataset"
    return shutil.copytree(packed_dataset, target, ignore=ignored)


def config_of(dataset: Path, **changes: object) -> ConfigDict:
    """One epoch over slices with blood, so that not all of a split are resident."""
    given = {"train__num_epochs": 1, "data__slices": "blood", "train__checkpoint_every_steps": 0}
    return run_commands.tiny_config(dataset, **(given | changes))


def test_gathered_batches_are_those_of_the_records(packed_dataset: Path) -> None:
    config = config_of(packed_dataset, data__resident=True)
    loader, streamed = Loader(config.data), Loader(config_of(packed_dataset).data)
    examples = loader.index.examples("train", "blood")
    (slices,) = loader.resident_slices(examples, create_parallel("jit").hold)
    assert slices.image.shape == (len(examples), 64, 64)
    which = {"global_batch": config.train.batch_size, "start_batch": 1}
    ours = list(loader.train_batches(examples[::-1], **which))
    theirs = list(streamed.train_batches(examples[::-1], **which))
    assert theirs[-1]["weight"].min() == 0  # The last one is padded.
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == {"example", "weight", "draw"}
        batch = one | jax.device_get(resident.gather(slices, one["example"]))
        for name, values in batch.items():
            assert values.dtype == other[name].dtype
            np.testing.assert_array_equal(values, other[name])


@pytest.mark.slow
def test_a_run_under_jit_has_the_numbers_of_one_that_reads_records_bit_for_bit(
    packed_dataset: Path, without_records: Path, tmp_path: Path
) -> None:
    """The next test is under pmap."""
    found = []
    for name, dataset, is_resident in (
        ("streamed", packed_dataset, False),
        ("resident", without_records, True),
    ):
        config = config_of(dataset, data__resident=is_resident, parallel__mode="jit")
        run_commands.train_and_evaluate(config, tmp_path / name)
        found.append(run_commands.results(config, tmp_path / name))
    assert found[0] == found[1]


def test_a_run_goes_on_with_its_slices_elsewhere(packed_dataset: Path, tmp_path: Path) -> None:
    streamed = config_of(packed_dataset, train__num_epochs=2)
    run_commands.train_and_evaluate(streamed, tmp_path / "streamed")
    workdir = tmp_path / "run"
    run_commands.train_and_evaluate(config_of(packed_dataset), workdir)
    second = config_of(packed_dataset, train__num_epochs=2, data__resident=True)
    run_commands.train_and_evaluate(second, workdir)
    ours, theirs = (run_commands.results(second, path) for path in (workdir, tmp_path / "streamed"))
    assert ours == theirs


WITHOUT_TENSORFLOW = textwrap.dedent(
    """
    import sys

    from importlib.machinery import PathFinder

    class NotInstalled:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] not in ("tensorflow", "tensorflow_datasets"):
                return PathFinder.find_spec(name, path, target)

    sys.meta_path[sys.meta_path.index(PathFinder)] = NotInstalled()
    from mbh_jax import cli, main
    cli.run(main.main)
    """
)


@pytest.mark.slow
def test_training_and_evaluation_need_no_tensorflow(
    packed_dataset: Path, without_records: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    changes = {"data__resident": True, "train__steps_per_call": 2, "train__num_epochs": 1}
    arguments = run_commands.flags(without_records, workdir, **changes)

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", WITHOUT_TENSORFLOW, *arguments, *more],
            cwd=run_commands.REPOSITORY,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )

    trained = run()
    assert trained.returncode == 0, trained.stderr
    assert (workdir / "evaluation" / "validation" / "summary.json").is_file()
    evaluated = run("--mode=evaluate")
    assert evaluated.returncode == 0, evaluated.stderr
    assert (workdir / "evaluation" / "test" / "summary.json").is_file()
    records = [f"--config.data.dir={packed_dataset}", "--config.data.resident=False"]
    streamed = run(*records, f"--workdir={tmp_path / 'other'}")
    assert "No module named 'tensorflow'" in streamed.stderr  # It is not there to be imported.


def test_without_a_cache_a_run_does_not_begin(tiny_dataset_dir: Path, tmp_path: Path) -> None:
    config = config_of(tiny_dataset_dir, data__resident=True)
    message = r"no packed cache in .*: make it with python -m data_prep\.pack_dataset --data_dir"
    with pytest.raises(UserError, match=message):
        run_commands.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_slices_of_several_sizes_are_refused_and_evaluation_takes_them(
    tmp_path: Path, make_source
) -> None:
    source = make_source()
    enlarge_one_volume(source)
    dataset = tmp_path / "mixed"
    build_tfrecords.build(source, dataset)
    pack_dataset.main([f"--data_dir={dataset}"])
    config = config_of(dataset, data__resident=True)
    loader, streamed = Loader(config.data), Loader(config_of(dataset).data)
    index = loader.index
    (split,) = (volume.split for volume in index.volumes if volume.shape[1:] == (128, 128))
    mixed = index.examples(split)
    with pytest.raises(UserError, match=r"several sizes \(64x64, 128x128\).*resident=False"):
        loader.resident_slices(mixed, create_parallel("jit").hold)
    training = run_commands.training_of(config)
    variables = training.init().variables
    ours, theirs = (
        validate(
            training.validation_step,
            variables,
            one.eval_batches(mixed, global_batch=4),
            training.parallel,
        )
        for one in (loader, streamed)
    )
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name])


def test_slices_that_do_not_fit_the_device_are_one_line(packed_dataset: Path) -> None:
    config = config_of(packed_dataset, data__resident=True)
    index = Loader(config.data).index
    examples = index.examples("train")

    def hold(array: np.ndarray) -> jax.Array:
        return jax.numpy.zeros(2**50, jax.numpy.uint8)

    with (
        pytest.raises(UserError, match=r"out of memory.*try.*--config\.data\.resident=False"),
        memory.out_of_memory_errors(config),
    ):
        resident.load(PackedSlices(index), examples, hold)
    assert packed_dir(index).is_dir()


@pytest.mark.slow
def test_processes_give_the_numbers_of_one_that_reads_records(
    tiny_dataset_dir: Path, without_records: Path, tmp_path: Path
) -> None:
    changes = {"train__num_epochs": 1, "train__checkpoint_every_steps": 5}
    reference = tmp_path / "reference"
    config = run_commands.tiny_config(tiny_dataset_dir, **changes)
    run_commands.train_and_evaluate(config, reference)
    workdir = tmp_path / "run"
    changes |= {"data__resident": True, "train__steps_per_call": 3}
    arguments = run_commands.flags(without_records, workdir, **changes)
    for process in run_commands.start_processes(arguments, 2, num_devices=2):
        code, said = run_commands.finish(process)
        assert code == 0, said
    assert_same_numbers(workdir, reference)
