"""The files of a run: read back by csv, json, TensorBoard."""

import csv
import errno
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from mbh_jax.reporting import tensorboard
from mbh_jax.reporting.run_files import RunFiles, read_history, write_history
from mbh_jax.reporting.tensorboard import TensorBoardWriter


def _read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_history_files_hold_the_history(tmp_path, make_history):
    history = make_history(6)
    write_history(tmp_path, history)
    losses, metrics = _read(tmp_path / "train_losses.csv"), _read(tmp_path / "train_metrics.csv")
    assert list(losses[0]) == ["epoch", "loss", "val_loss"]
    assert [int(row["epoch"]) for row in losses] == [1, 2, 3, 4, 5, 6]
    for row, loss, metric in zip(history, losses, metrics, strict=True):
        assert float(loss["loss"]) == row["loss"]
        assert float(loss["val_loss"]) == row["val_loss"]
        assert float(metric["val_foreground_dice"]) == row["val_foreground_dice"]
        assert float(metric["val_dice_SDH"]) == row["val_dice_SDH"]
        assert metric["val_dice_EDH"] == "", "a class that validation lacks"
    assert not {"seconds", "images_per_second"} & set(metrics[0])
    saved = json.loads((tmp_path / "history.json").read_text())
    assert [row["seconds"] for row in saved] == [1.25] * 6
    assert saved[0]["val_dice_EDH"] is None


def test_a_resumed_run_writes_the_same_bytes(tmp_path, make_history):
    history = make_history(6)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    write_history(whole, history)
    for epochs in (2, 4, 3, 6):
        write_history(resumed, make_history(epochs))
    # What history.json turned into null comes back from a checkpoint's record as None.
    restored = json.loads((resumed / "history.json").read_text())
    write_history(resumed, restored)
    for name in ("train_losses.csv", "train_metrics.csv", "history.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def test_config_file(tmp_path):
    config = ConfigDict({"seed": 0, "model": {"dtype": "float32", "sizes": (1, 2)}})
    RunFiles(tmp_path, config, 0, enabled=False)
    assert not list(tmp_path.iterdir())
    RunFiles(tmp_path, config, 0, enabled=True)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "seed": 0,
        "model": {"dtype": "float32", "sizes": [1, 2]},
    }


def _accumulate(directory):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    return event_accumulator.EventAccumulator(str(directory)).Reload()


def test_tensorboard_reads_scalars_and_images_and_forgets_the_steps_of_a_killed_run(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    with TensorBoardWriter(tmp_path) as events:
        events.image(10, "prediction", picture)
        for step in (10, 20, 30, 40):
            events.scalars(step, {"loss": 1 / step, "val_dice_EDH": None, "other": float("nan")})
    with TensorBoardWriter(tmp_path, steps_taken=20) as events:
        for step in (30, 40):
            events.scalars(step, {"loss": 2 / step})

    read = _accumulate(tmp_path)
    assert read.Tags()["scalars"] == ["loss"]
    scalars = read.Scalars("loss")
    assert [event.step for event in scalars] == [10, 20, 30, 40]
    np.testing.assert_allclose(
        [event.value for event in scalars], [1 / 10, 1 / 20, 2 / 30, 2 / 40], rtol=1e-6
    )
    (image,) = read.Images("prediction")
    assert (image.step, image.height, image.width) == (10, 5, 7)
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(image.encoded_image_string))), picture
    )


def test_events_written_after_the_clock_was_set_back_are_read(tmp_path, monkeypatch):
    for now_s, steps in ((2_000_000_000.5, (10, 20)), (1_900_000_000.0, (30,)), (5.0, (40,))):
        monkeypatch.setattr(tensorboard.time, "time_ns", lambda now_s=now_s: int(now_s * 1e9))
        with TensorBoardWriter(tmp_path, steps_taken=steps[0] - 10) as events:
            for step in steps:
                events.scalars(step, {"loss": 1 / step})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        f"events.out.tfevents.2000000000.{n}.mbh_jax" for n in (5 * 10**8 + i for i in range(3))
    ]
    assert [event.step for event in _accumulate(tmp_path).Scalars("loss")] == [10, 20, 30, 40]


def test_reporting_imports_neither_tensorflow_nor_pyplot(tmp_path):
    program = (
        "import sys\n"
        "from mbh_jax.reporting import curves, overlays, progress, run_files, tables, tensorboard\n"
        f"tensorboard.TensorBoardWriter({str(tmp_path)!r}).close()\n"
        "print(*sorted({'tensorflow', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == ""


def test_curves_and_events_that_cannot_be_written_are_warnings(tmp_path, make_history, caplog):
    (tmp_path / "tensorboard").write_text("a file where a folder belongs")
    (tmp_path / "train_metrics.png").mkdir()
    with RunFiles(tmp_path, ConfigDict(), 0, enabled=True) as run_files:
        for epochs in (1, 2):
            run_files.write_epoch(make_history(epochs), np.zeros((4, 4, 3), np.uint8))
    assert len(_read(tmp_path / "train_losses.csv")) == 2
    for what in ("TensorBoard's events", "the curves"):
        assert f"warning: {what} could not be written, the run goes on" in caplog.text
    assert caplog.text.count("TensorBoard's events") == 1


def test_events_end_where_one_could_not_be_written(tmp_path, make_history, monkeypatch, caplog):
    """What follows a damaged record in an event file is never read."""
    with RunFiles(tmp_path, ConfigDict(), 0, enabled=True) as run_files:
        run_files.write_epoch(make_history(1), None)
        with monkeypatch.context() as patch:
            patch.setattr(TensorBoardWriter, "scalars", _full_disk)
            run_files.write_epoch(make_history(2), None)
        run_files.write_epoch(make_history(3), None)
    assert caplog.text.count("No space left on device") == 1
    events = _accumulate(tmp_path / "tensorboard").Scalars("loss")
    assert [event.step for event in events] == [10]
    assert len(_read(tmp_path / "train_losses.csv")) == 3


def _full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_history_is_read_back_and_one_that_is_damaged_is_a_warning(
    tmp_path, make_history, caplog
):
    workdir = epath.Path(tmp_path)
    assert read_history(workdir) == [], "imported weights have none"
    write_history(workdir, make_history(2))
    assert [entry["epoch"] for entry in read_history(workdir)] == [1, 2]
    for text in ("[", "{}x", "[1]", "7", '[{"epoch": 1}]'):
        (tmp_path / "history.json").write_text(text)
        caplog.clear()
        assert read_history(workdir) == []
        assert "history.json: damaged" in caplog.text
