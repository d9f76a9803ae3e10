"""Curves hold the history's numbers and say which Dice counts background."""

import matplotlib
import numpy as np
import pytest
from PIL import Image

from mbh_jax.reporting import curves


def _line(axes, label):
    (line,) = (line for line in axes.get_lines() if label in str(line.get_label()))
    return line


def test_loss_figure_shows_the_losses(make_history):
    history = make_history(6)
    (axes,) = curves.loss_figure(history).get_axes()
    for label, name in (("training", "loss"), ("validation", "val_loss")):
        x, y = _line(axes, label).get_data()
        np.testing.assert_array_equal(x, [1, 2, 3, 4, 5, 6])
        np.testing.assert_array_equal(y, [row[name] for row in history])


def test_marks_the_best_epoch_and_the_drop_of_the_learning_rate(make_history):
    history = make_history(8)
    assert curves.best_epoch(history) == 5
    assert curves.learning_rate_drops(history) == [4]
    (axes,) = curves.loss_figure(history).get_axes()
    assert set(_line(axes, "best epoch (5").get_xdata()) == {5}
    assert set(_line(axes, "learning rate").get_xdata()) == {3.5}


@pytest.mark.parametrize("num_epochs", [4, 50])
def test_a_smooth_schedule_has_no_drops(num_epochs):
    rate = 1e-3 * (1 + np.cos(np.linspace(0, np.pi, num_epochs))) / 2
    history = [{"epoch": i + 1, "learning_rate": float(r)} for i, r in enumerate(rate)]
    assert curves.learning_rate_drops(history) == []


def test_best_epoch_of_losses_that_are_not_finite(make_history):
    history = [row | {"val_loss": float("nan")} for row in make_history(3)]
    assert curves.best_epoch(history) is None
    history[1]["val_loss"] = 2.0
    assert curves.best_epoch(history) == 2


def test_metric_figure_puts_the_foreground_in_front(make_history):
    history = make_history(6)
    left, right = curves.metric_figure(history).get_axes()
    foreground = _line(left, "foreground, validation")
    np.testing.assert_array_equal(
        foreground.get_ydata(), [row["val_foreground_dice"] for row in history]
    )
    comparison = [line for line in left.get_lines() if "coef" in str(line.get_label())]
    assert len(comparison) == 2
    for line in comparison:
        assert "counts background" in str(line.get_label())
        assert line.get_linestyle() == "--"
        assert line.get_linewidth() < foreground.get_linewidth()
    np.testing.assert_array_equal(
        _line(right, "SDH").get_ydata(), [row["val_dice_SDH"] for row in history]
    )
    assert np.isnan(_line(right, "EDH").get_ydata()).all()


@pytest.mark.parametrize("num_epochs", [1, 100])
def test_plots_are_pictures(tmp_path, make_history, num_epochs):
    curves.write_plots(tmp_path, make_history(num_epochs))
    for name in ("train_losses.png", "train_metrics.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 800
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_curves_are_the_same_whatever_style_the_user_has(make_history, tmp_path):
    curves.write_plots(tmp_path / "default", make_history(3))
    # Where LaTeX is missing, the first of them would end the drawing.
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30}):
        curves.write_plots(tmp_path / "other", make_history(3))
    for name in ("train_losses.png", "train_metrics.png"):
        found = (tmp_path / "other" / name).read_bytes()
        assert found == (tmp_path / "default" / name).read_bytes()
