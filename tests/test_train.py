"""The training loop on a tiny dataset: what it writes, how it resumes, how it stops."""

import csv
import itertools
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict
from run_commands import (
    evaluate_split,
    interrupt_after,
    last_record,
    num_train_examples,
    restore,
    results,
    train_and_evaluate,
    training_of,
)
from tiny_ct import enlarge_one_volume

from configs import smoke
from data_prep import build_tfrecords
from mbh_jax import export
from mbh_jax.data.loader import Loader
from mbh_jax.errors import Stopped, UserError
from mbh_jax.inference import split
from mbh_jax.reporting.run_files import RunFiles
from mbh_jax.runtime.parallel import create_parallel
from mbh_jax.runtime.preemption import StopRequest
from mbh_jax.train import train
from mbh_jax.training import bundle, epoch_log
from mbh_jax.training.checkpoints import Checkpoints
from mbh_jax.training.initialize import initialize_from
from mbh_jax.training.network import restore_network
from mbh_jax.training.preview import Preview
from mbh_jax.training.validation import validate

NUM_EPOCHS = 3


def tiny_config(tiny_dataset_dir: Path) -> ConfigDict:
    config = smoke.get_config()
    config.data.dir = str(tiny_dataset_dir)
    config.data.image_size = 32
    config.data.slices = "all"
    config.model.num_layers = 2
    config.model.dropout_rate = 0.2
    config.model.norm = "batch"
    config.augment.flip = True
    config.optimizer.learning_rate = 3e-3
    config.train.batch_size = 4
    config.train.num_epochs = NUM_EPOCHS
    config.train.log_every_steps = 2
    config.train.checkpoint_every_steps = 3
    config.train.preview_slices = 2
    return config


@pytest.fixture
def config(tiny_dataset_dir: Path) -> ConfigDict:
    return tiny_config(tiny_dataset_dir)


@pytest.fixture(scope="module")
def undisturbed(tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    train_and_evaluate(tiny_config(tiny_dataset_dir), workdir)
    return workdir


def last_state(config: ConfigDict, workdir: Path) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(restore(config, workdir).arrays)]


def test_a_run_writes_the_files_that_the_readme_names(undisturbed: Path) -> None:
    names = {path.name for path in undisturbed.iterdir()}
    assert names == {
        "checkpoints",
        "config.json",
        "epoch_change_infer",
        "evaluation",
        "history.json",
        "tensorboard",
        "train_losses.csv",
        "train_losses.png",
        "train_metrics.csv",
        "train_metrics.png",
    }
    pictures = sorted(path.name for path in (undisturbed / "epoch_change_infer").iterdir())
    assert pictures == ["epoch_0001", "epoch_0002", "epoch_0003"]
    assert len(list((undisturbed / "epoch_change_infer" / "epoch_0001").iterdir())) == 3
    evaluation = undisturbed / "evaluation" / "validation"
    names = {path.name for path in evaluation.iterdir()}
    assert names == {
        *("summary.json", "evaluation.json", "masks", "report.html"),
        *("per_case.csv", "per_lesion.csv", "per_slice.csv", "confusion.csv"),
    }
    with (undisturbed / "train_losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_the_spacing_of_the_training_data_goes_with_the_weights(
    undisturbed: Path, tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    """Into both checkpoints, and into a bundle and its model card."""
    (metadata,) = tiny_dataset_dir.rglob("metadata.json")
    rows = [row for row in json.loads(metadata.read_text())["volumes"] if row["split"] == "train"]
    slice_mm = [row["spacing_mm"][2] for row in rows]
    pixel_mm = [row["spacing_mm"][0] for row in rows]
    export.export(undisturbed, tmp_path / "net.zip")
    sources = ((undisturbed, "best"), (undisturbed, "last"), (tmp_path / "net.zip", "best"))
    for path, checkpoint in sources:
        found = restore_network(
            epath.Path(path), create_parallel("jit"), checkpoint=checkpoint
        ).spacing
        assert found is not None
        expected = min(slice_mm), np.median(slice_mm), max(slice_mm)
        np.testing.assert_allclose(found.slice_mm, expected, rtol=1e-5)
        np.testing.assert_allclose(found.pixel_mm.median, np.median(pixel_mm), rtol=1e-5)
    card = bundle.read_card(tmp_path / "net.zip")
    assert f"Distance of slices {np.median(slice_mm):.3g} mm (" in card


def test_best_checkpoint_is_of_the_lowest_validation_loss(
    config: ConfigDict, undisturbed: Path
) -> None:
    entries = json.loads((undisturbed / "history.json").read_text())
    best = min(entries, key=lambda entry: entry["val_loss"])
    restored = restore(config, undisturbed, "best")
    assert restored.step == best["step"]
    training, loader = training_of(config), Loader(config.data)
    examples = loader.index.examples("validation", "all")
    batches = loader.eval_batches(examples, global_batch=config.eval.batch_size)
    sums = validate(training.validation_step, restored.arrays, batches, training.parallel)
    assert sums["examples"] == len(examples)
    val_loss = epoch_log.objective(training.loss, sums)
    assert val_loss == pytest.approx(best["val_loss"], rel=1e-6)


@pytest.mark.parametrize("num_batches", [5, 9])
def test_an_interrupted_run_ends_with_the_numbers_of_an_undisturbed_one(
    config: ConfigDict,
    undisturbed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_batches: int,
) -> None:
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, num_batches)
        train_and_evaluate(config, workdir)
    train_and_evaluate(config, workdir)
    for ours, theirs in zip(
        last_state(config, workdir), last_state(config, undisturbed), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    for name in ("train_losses.csv", "train_metrics.csv"):
        assert (workdir / name).read_bytes() == (undisturbed / name).read_bytes()
    tables = "evaluation/validation/per_case.csv"
    assert (workdir / tables).read_bytes() == (undisturbed / tables).read_bytes()


def interrupt_report(monkeypatch: pytest.MonkeyPatch, epoch: int, name: str) -> None:
    """Makes the run end after an epoch's checkpoint: before its pictures, or after them."""
    whole = getattr(Preview if name == "draw" else RunFiles, name)

    def interrupted(self, *arguments):
        number = arguments[1] if name == "draw" else len(arguments[0])
        if number == epoch:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    monkeypatch.setattr(Preview if name == "draw" else RunFiles, name, interrupted)


@pytest.mark.parametrize(("name", "epoch"), [("draw", 2), ("write_epoch", NUM_EPOCHS)])
def test_what_a_killed_run_did_not_write_after_its_checkpoint_is_written_later(
    config: ConfigDict,
    undisturbed: Path,
    tmp_path: Path,
    *,
    name: str,
    epoch: int,
) -> None:
    workdir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_report(patch, epoch, name)
        train_and_evaluate(config, workdir)
    assert last_record(config, workdir)["epoch"] == epoch, "the epoch itself is saved"
    train_and_evaluate(config, workdir)
    assert results(config, workdir) == results(config, undisturbed)
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shown = accumulator.EventAccumulator(str(workdir / "tensorboard")).Reload()
    steps = [entry["step"] for entry in json.loads((workdir / "history.json").read_text())]
    assert [event.step for event in shown.Scalars("val_loss")] == steps
    (tag,) = shown.Tags()["images"]
    assert [event.step for event in shown.Images(tag)] == steps


def test_pictures_that_cannot_be_drawn_cost_no_epoch(
    config: ConfigDict, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workdir = tmp_path / "run"
    workdir.mkdir()
    for name in ("epoch_change_infer", "tensorboard"):
        (workdir / name).write_text("a file where a folder belongs")
    train_and_evaluate(config, workdir)
    for epoch in range(1, NUM_EPOCHS + 1):
        assert f"the pictures of epoch {epoch} could not be written, the run goes on" in caplog.text
    for name in ("train_losses.csv", "evaluation/validation/per_case.csv"):
        assert (workdir / name).read_bytes() == (undisturbed / name).read_bytes()


def test_a_finished_run_goes_on_when_it_is_given_more_epochs(
    config: ConfigDict, undisturbed: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    config.train.num_epochs = 1
    train_and_evaluate(config, workdir)
    config.train.num_epochs = NUM_EPOCHS
    train_and_evaluate(config, workdir)
    losses = "train_losses.csv"
    assert (workdir / losses).read_bytes() == (undisturbed / losses).read_bytes()


def test_a_run_that_starts_with_the_weights_of_another(
    config: ConfigDict, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    config.optimizer.learning_rate = 1e-4
    config.train.num_epochs = 1
    initialize_from(config, workdir, undisturbed, create_parallel("pmap"))
    for where in (undisturbed, workdir):
        evaluate_split(config, where)
    theirs, ours = capsys.readouterr().out.split("test: ")[1:]
    assert ours.splitlines()[1:] == theirs.splitlines()[1:]
    train_and_evaluate(config, workdir)
    # Once begun, it goes on.
    initialize_from(config, workdir, undisturbed, create_parallel("pmap"))
    train_and_evaluate(config, workdir)
    assert len(json.loads((workdir / "history.json").read_text())) == 1


def test_another_configuration_is_refused_with_the_difference(
    config: ConfigDict, undisturbed: Path
) -> None:
    config.optimizer.learning_rate = 1e-3
    with pytest.raises(UserError, match=r"optimizer\.learning_rate: 0\.003 -> 0\.001"):
        train_and_evaluate(config, undisturbed)


def test_another_network_is_refused_in_evaluation(config: ConfigDict, undisturbed: Path) -> None:
    config.model.base_filters = 8
    with pytest.raises(UserError, match=r"model\.base_filters: 4 -> 8"):
        evaluate_split(config, undisturbed)


def test_evaluation_of_a_split_counts_every_voxel_of_its_volumes_once(
    config: ConfigDict,
    undisturbed: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config.eval.split = "train"
    config.eval.batch_size = 7
    evaluate_split(config, undisturbed)
    index = Loader(config.data).index
    summary = json.loads((undisturbed / "evaluation" / "train" / "summary.json").read_text())
    volumes = {volume.volume_id: volume for volume in index.volumes if volume.split == "train"}
    assert set(summary["patients"]) == set(volumes)
    for name, case in zip(summary["patients"], summary["metric_per_case"], strict=True):
        assert case["reference_file"] == case["prediction_file"] == f"{name}.nii.gz"
        rows = [index.volumes[v].volume_id == name for v in index.volume]
        for label in range(1, 6):
            counts = case["metrics"][str(label)]
            assert counts["n_ref"] == index.pixels_per_class[rows, label].sum()
            voxels = np.prod(volumes[name].shape)
            assert sum(counts[kind] for kind in ("TP", "FP", "FN", "TN")) == voxels
    assert "mean of 5" in capsys.readouterr().out

    def stopped(*_: object) -> None:
        raise Stopped("stopped on request")

    # Masks that a stopped evaluation leaves do not lie beside the tables of others.
    monkeypatch.setattr(split, "predict_volumes", stopped)
    with pytest.raises(Stopped):
        evaluate_split(config, undisturbed)
    left = {path.name for path in (undisturbed / "evaluation" / "train").iterdir()}
    assert left == {"masks"}


def test_evaluations_on_two_datasets_are_both_kept(
    config: ConfigDict,
    undisturbed: Path,
    tmp_path: Path,
    make_source,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from data_prep import build_tfrecords

    source = make_source()
    enlarge_one_volume(source)
    build_tfrecords.build(source, tmp_path / "other")
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    found = {}
    own_dir = config.data.dir
    # The other one first: the plain name stays that of the dataset that the run was trained on.
    for config.data.dir in (str(tmp_path / "other"), own_dir, str(tmp_path / "other")):
        evaluate_split(config, workdir)
        index = Loader(config.data).index
        assert f"dataset: {index.directory} ({index.fingerprint[:8]})" in capsys.readouterr().out
        found[config.data.dir] = index.fingerprint
    folders = {path.name: path for path in (workdir / "evaluation").glob("test*")}
    assert set(folders) == {"test", f"test_{found[str(tmp_path / 'other')][:8]}"}
    for folder in folders.values():
        summary = json.loads((folder / "summary.json").read_text())
        is_own = folder.name == "test"
        expected = found[own_dir] if is_own else found[str(tmp_path / "other")]
        assert summary["provenance"]["dataset"] == expected


def test_imported_weights_belong_to_no_dataset_and_their_evaluations_are_kept_apart(
    config: ConfigDict, undisturbed: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    initialize_from(config, workdir, undisturbed, create_parallel("pmap"))
    evaluate_split(config, workdir)
    results = workdir / "evaluation" / "test" / "summary.json"
    of_another = json.loads(results.read_text())
    of_another["provenance"]["dataset"] = "of another dataset"
    results.write_text(json.dumps(of_another))
    evaluate_split(config, workdir)
    assert json.loads(results.read_text()) == of_another
    fingerprint = Loader(config.data).index.fingerprint
    assert (workdir / "evaluation" / f"test_{fingerprint[:8]}" / "summary.json").is_file()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "run"
    config.train.checkpoint_every_steps = 1
    whole = Loader.train_batches

    def poisoned(self, order, **which):
        for number, batch in enumerate(whole(self, order, **which)):
            # NaN weights make the loss of the third step NaN, and what it would leave behind.
            yield batch | {"weight": batch["weight"] * np.float32(np.nan)} if number == 2 else batch

    monkeypatch.setattr(Loader, "train_batches", poisoned)
    with pytest.raises(UserError, match="not finite"):
        train_and_evaluate(config, workdir)
    state = last_state(config, workdir)
    assert int(state[0]) == 2 or any(leaf.shape == () and leaf == 2 for leaf in state)
    assert all(np.isfinite(leaf[leaf < np.inf]).all() for leaf in state if leaf.dtype.kind == "f")
    kept = {path.name for path in (workdir / "checkpoints" / "last").iterdir() if path.is_dir()}
    assert kept == {"1", "2"}


def test_an_epoch_whose_batches_are_all_skipped_stops_the_run(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "run"
    config.train.max_nonfinite_steps = 1000
    whole = Loader.train_batches

    epochs = itertools.count()

    def poisoned(self, order, **which):
        epoch = next(epochs)
        for batch in whole(self, order, **which):
            yield batch | {"weight": batch["weight"] * np.float32(np.nan if epoch else 1)}

    monkeypatch.setattr(Loader, "train_batches", poisoned)
    with pytest.raises(UserError, match=r"all \d+ batches of epoch 2 were skipped"):
        train_and_evaluate(config, workdir)
    assert last_record(config, workdir)["epoch"] == 1


def test_early_stopping_stops_after_the_given_epochs_without_a_better_loss(
    config: ConfigDict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config.optimizer.learning_rate = 1e-12
    config.optimizer.warmup_epochs = 0.0
    config.model.norm = "none"
    config.train.steps_per_epoch = 1
    config.train.num_epochs = 10
    config.train.early_stopping_patience = 2
    config.train.preview_slices = 0
    caplog.set_level(logging.INFO)
    train_and_evaluate(config, tmp_path / "run")
    entries = json.loads((tmp_path / "run" / "history.json").read_text())
    losses = [entry["val_loss"] for entry in entries]
    best = int(np.argmin(losses))
    assert len(entries) < 10
    assert len(entries) - 1 - best == 2
    said = f"stopped early after epoch {len(entries)}: no validation loss below that of epoch "
    assert f"{said}{best + 1} for 2 epochs" in caplog.text
    caplog.clear()
    train_and_evaluate(config, tmp_path / "run")
    assert said in caplog.text
    assert json.loads((tmp_path / "run" / "history.json").read_text()) == entries

    config.train.early_stopping_patience = 3
    train_and_evaluate(config, tmp_path / "run")
    more = json.loads((tmp_path / "run" / "history.json").read_text())
    assert more[: len(entries)] == entries
    losses = [entry["val_loss"] for entry in more]
    assert len(losses) - 1 - int(np.argmin(losses)) == 3


def test_an_epoch_that_ends_on_a_checkpoint_step_keeps_its_record(
    config: ConfigDict, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    config.train.num_epochs = 1
    config.train.checkpoint_every_steps = -(-num_train_examples(config) // config.train.batch_size)
    train_and_evaluate(config, workdir)
    record = last_record(config, workdir)
    assert (record["epoch"], record["batch"], len(record["history"])) == (1, 0, 1)


def test_a_best_checkpoint_without_a_whole_state_is_of_no_run(
    config: ConfigDict, undisturbed: Path, tmp_path: Path
) -> None:
    """A run stopped between its first best checkpoint and its first whole state leaves that."""
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed / "checkpoints" / "best", workdir / "checkpoints" / "best")
    config.seed = 1
    config.train.num_epochs = 1
    train_and_evaluate(config, workdir)
    (best,) = (workdir / "checkpoints" / "best").iterdir()
    entries = json.loads((workdir / "history.json").read_text())
    assert best.name == str(entries[0]["step"])


def remove_last(workdir: Path) -> None:
    shutil.rmtree(workdir / "checkpoints" / "last")


def damage_every_state(workdir: Path) -> None:
    for folder in (workdir / "checkpoints" / "last").glob("[0-9]*"):
        shutil.rmtree(folder / "training")


def remove_checkpoints(workdir: Path) -> None:
    shutil.rmtree(workdir / "checkpoints")


def keep_best(workdir: Path) -> None:
    remove_last(workdir)
    (workdir / "history.json").unlink()


@pytest.mark.parametrize("lose", [remove_last, damage_every_state, remove_checkpoints, keep_best])
def test_a_run_that_lost_its_last_state_is_not_taken_for_a_new_one(
    config: ConfigDict,
    undisturbed: Path,
    tmp_path: Path,
    lose: Callable[[Path], None],
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    lose(workdir)
    has_best = (workdir / "checkpoints" / "best").exists()
    left = {path for path in workdir.rglob("*") if "last" not in str(path)}
    for _ in range(2):
        with pytest.raises(UserError, match="last state is missing or damaged") as refused:
            train_and_evaluate(config, workdir)
        assert "give another --workdir" in str(refused.value)
        assert (f"--init_from={workdir}" in str(refused.value)) == has_best
    if has_best:
        with pytest.raises(UserError, match="last state is missing or damaged"):
            initialize_from(config, workdir, workdir, create_parallel("pmap"))
    assert left == {path for path in workdir.rglob("*") if "last" not in str(path)}
    if has_best:
        initialize_from(config, tmp_path / "new", workdir, create_parallel("pmap"))
        assert (tmp_path / "new" / "checkpoints" / "initial" / "0").is_dir()


def test_a_run_that_lost_the_weights_it_was_to_start_with_does_not_start_with_others(
    config: ConfigDict, undisturbed: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    initialize_from(config, workdir, undisturbed, create_parallel("pmap"))
    shutil.rmtree(workdir / "checkpoints" / "initial")
    with pytest.raises(UserError, match=r"last state is missing .* \(there are config\.json\)"):
        train_and_evaluate(config, workdir)


def test_a_run_that_has_begun_does_not_need_the_weights_it_started_with(
    config: ConfigDict, undisturbed: Path, tmp_path: Path
) -> None:
    config.train.preview_slices = 0
    workdir, source = tmp_path / "run", shutil.copytree(undisturbed, tmp_path / "source")
    for config.train.num_epochs in (1, 2):
        with StopRequest() as stop:
            train(config, epath.Path(workdir), stop, init_from=epath.Path(source))
        for folder in (source, workdir / "checkpoints" / "initial"):
            shutil.rmtree(folder, ignore_errors=True)
    first, second = json.loads((workdir / "history.json").read_text())
    # A network that has been trained for three epochs, and not a new one.
    assert first["loss"] < json.loads((undisturbed / "history.json").read_text())[1]["loss"]
    assert second["epoch"] == 2


def test_a_run_that_took_no_step_may_become_another(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The devices' memory did not suffice, say, and the next try takes smaller batches."""
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_after(patch, 0)
        train_and_evaluate(config, workdir)
    assert {path.name for path in (workdir / "checkpoints" / "last").iterdir()} == {"0"}
    (workdir / "history.json").write_text("[]")
    config.data.slices = "blood"  # Another batch size would be compiled for a long time.
    with pytest.raises(UserError, match="another configuration"):
        train_and_evaluate(config, workdir)
    (workdir / "history.json").unlink()
    config.train.num_epochs = 1
    config.train.preview_slices = 0
    train_and_evaluate(config, workdir)
    record = last_record(config, workdir)
    assert (record["epoch"], record["config"]["data"]["slices"]) == (1, "blood")


def test_a_disk_that_loses_what_is_written_is_found_before_the_first_step(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = tmp_path / "run"
    wait = Checkpoints.wait

    def wait_and_lose(self) -> None:
        wait(self)
        (workdir / "checkpoints" / "last" / "0" / "variables" / "manifest.ocdbt").unlink()

    monkeypatch.setattr(Checkpoints, "wait", wait_and_lose)
    monkeypatch.setattr(Loader, "train_batches", None)
    with pytest.raises(UserError, match=r"last/0: was written, but cannot be read back"):
        train_and_evaluate(config, workdir)


def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before(
    config: ConfigDict, undisturbed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    newest = max((workdir / "checkpoints" / "last").glob("[0-9]*"), key=lambda path: int(path.name))
    shutil.rmtree(newest / "variables")
    train_and_evaluate(config, workdir)
    assert f"last/{newest.name}: damaged, moved to " in caplog.text
    for ours, theirs in zip(
        last_state(config, workdir), last_state(config, undisturbed), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    losses = "train_losses.csv"
    assert (workdir / losses).read_bytes() == (undisturbed / losses).read_bytes()


def test_a_damaged_best_checkpoint_is_named(
    config: ConfigDict, undisturbed: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(undisturbed, workdir)
    (best,) = (workdir / "checkpoints" / "best").iterdir()
    (best / "variables" / "manifest.ocdbt").unlink()
    with pytest.raises(UserError, match=f"best/{best.name}: damaged"):
        evaluate_split(config, workdir)


def test_slices_of_several_sizes_are_counted_at_their_own(
    config: ConfigDict, tmp_path: Path, make_source
) -> None:
    """Voxels and millilitres of a volume do not depend on the image sizes of the others."""
    from data_prep import build_tfrecords

    source = make_source()
    enlarge_one_volume(source)
    build_tfrecords.build(source, tmp_path / "mixed")
    config.data.dir = str(tmp_path / "mixed")
    config.train.num_epochs = 1
    workdir = tmp_path / "run"
    train_and_evaluate(config, workdir)
    index = Loader(config.data).index
    assert len(index.in_plane_shapes()) == 2
    for part in ("train", "validation", "test"):
        config.eval.split = part
        evaluate_split(config, workdir)
        summary = json.loads((workdir / "evaluation" / part / "summary.json").read_text())
        for name, case in zip(summary["patients"], summary["metric_per_case"], strict=True):
            rows = [index.volumes[v].volume_id == name for v in index.volume]
            found = [case["metrics"][str(label)]["n_ref"] for label in range(1, 6)]
            np.testing.assert_array_equal(found, index.pixels_per_class[rows, 1:].sum(0))


def test_another_dataset_is_mixed_in_and_belongs_to_the_run(
    config: ConfigDict, tmp_path: Path, make_source
) -> None:
    """Its slices are drawn, and a run does not go on with others in their place."""
    source = make_source(num_volumes=4)
    build_tfrecords.build(source, tmp_path / "other", split="patient")
    config.data.extra_dir = str(tmp_path / "other")
    config.data.extra_share, config.data.extra_share_end = 1.0, 0.0
    config.train.num_epochs = 1
    workdir = tmp_path / "run"
    train_and_evaluate(config, workdir)
    record = last_record(config, workdir)
    own, other = (Loader(config.data, with_extra=extra).index for extra in (False, True))
    assert (record["dataset"], record["extra_dataset"]) == tuple(other.fingerprints.values())
    assert record["dataset"] == own.fingerprint
    config.train.num_epochs = 2
    with pytest.raises(UserError, match=r"train\.num_epochs: 1 -> 2"):
        train_and_evaluate(config, workdir)
    config.train.num_epochs = 1
    config.data.extra_dir = config.data.dir
    with pytest.raises(UserError, match=r"another dataset than .*--config\.data\.extra_dir"):
        train_and_evaluate(config, workdir)
    config.data.resident = True
    with pytest.raises(UserError, match=r"data\.resident does not go with data\.extra_dir"):
        train_and_evaluate(config, workdir)
