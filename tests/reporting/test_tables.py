"""Tables and summary against boolean masks, nanmean and hand-computed numbers."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mbh_jax.evaluation.summary import summarize, write_evaluation
from mbh_jax.labels import CLASS_NAMES, FOREGROUND, NUM_CLASSES
from mbh_jax.reporting import tables

VOXEL_ML = np.array([0.5, 0.25, 2.0, 1.0])
CASES = ["ID_a", "ID_b", "ID_c", "ID_healthy"]


@pytest.fixture
def masks():
    """Truth and prediction (4, 12, 12); class 3 is nowhere, case 3 healthy with false blood."""
    rng = np.random.default_rng(0)
    truth = np.where(rng.random((4, 12, 12)) < 0.6, 0, rng.choice([1, 2, 4, 5], (4, 12, 12)))
    truth[1][truth[1] == 1] = 0
    truth[3] = 0
    prediction = np.where(rng.random(truth.shape) < 0.7, truth, 0)
    prediction[1, :2, :2] = 1
    prediction[3, 0, :3] = 5
    return truth, prediction


def _confusion(masks):
    truth, prediction = (array.reshape(len(CASES), -1) for array in masks)
    return np.stack(
        [
            np.bincount(NUM_CLASSES * t + p, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, -1)
            for t, p in zip(truth, prediction, strict=True)
        ]
    )


@pytest.fixture
def summary(masks, tmp_path):
    summary = summarize(
        CASES,
        _confusion(masks),
        voxel_volume_ml=VOXEL_ML,
        cross_entropy=0.125,
        dice_coef_multiclass=0.98765,
        split="test",
        step=1200,
    )
    write_evaluation(tmp_path, summary)
    return summary


def _expected_dice(true, predicted):
    total = true.sum() + predicted.sum()
    return 2 * (true & predicted).sum() / total if total else np.nan


def _dice_of_cases(masks):
    truth, prediction = masks
    return np.array(
        [
            [_expected_dice(t == c, p == c) for c in FOREGROUND]
            for t, p in zip(truth, prediction, strict=True)
        ]
    )


def test_strict_readers_get_the_summary(summary, tmp_path):
    def refuse(constant):
        raise AssertionError(f"not JSON: {constant}")

    text = (tmp_path / "evaluation.json").read_text()
    assert json.loads(text, parse_constant=refuse) == summary
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert names == ["evaluation.csv", "evaluation.json", "summary.json"]


def test_readers_of_nnunets_summary_get_its_numbers(summary, masks, tmp_path):
    """As nnU-Net's own scripts and its users' read and average it, with NaN for an absent class."""
    found = json.loads((tmp_path / "summary.json").read_text())
    dice = _dice_of_cases(masks)
    fields = {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"}
    for which in ("reference_file", "prediction_file"):
        names = [Path(case[which]).name for case in found["metric_per_case"]]
        assert [name.removesuffix(".nii.gz") for name in names] == CASES
    for c in FOREGROUND:
        column = [case["metrics"][str(c)]["Dice"] for case in found["metric_per_case"]]
        np.testing.assert_allclose(np.array(column, np.float64), dice[:, c - 1], rtol=1e-12)
        for name in fields:
            values = [case["metrics"][str(c)][name] for case in found["metric_per_case"]]
            expected = np.nan if np.isnan(values).all() else np.nanmean(values)
            np.testing.assert_allclose(found["mean"][str(c)][name], expected, rtol=1e-12)
    assert np.isnan(found["mean"]["3"]["Dice"]), "no case has the class"
    # Ours beside nnU-Net's, by whose names no reader looks for NaN.
    assert {name: found[name] for name in ("pooled", "per_case")} == {
        name: summary[name] for name in ("pooled", "per_case")
    }


def test_summary_has_nnunet_fields(summary, masks):
    truth, prediction = masks
    assert [case["case"] for case in summary["metric_per_case"]] == CASES
    for t, p, case in zip(truth, prediction, summary["metric_per_case"], strict=True):
        assert list(case["metrics"]) == ["1", "2", "3", "4", "5"]
        for c in FOREGROUND:
            true, predicted, fields = t == c, p == c, case["metrics"][str(c)]
            assert fields["TP"] == (true & predicted).sum()
            assert fields["FP"] == (~true & predicted).sum()
            assert fields["FN"] == (true & ~predicted).sum()
            assert fields["TN"] == (~true & ~predicted).sum()
            assert fields["n_pred"] == predicted.sum()
            assert fields["n_ref"] == true.sum()
            dice = _expected_dice(true, predicted)
            assert fields["Dice"] == (None if np.isnan(dice) else pytest.approx(dice))
            assert fields["IoU"] == (None if np.isnan(dice) else pytest.approx(dice / (2 - dice)))


def test_means_leave_out_what_does_not_exist(summary, masks):
    dice = _dice_of_cases(masks)
    known = [c for c in FOREGROUND if c != 3]
    means = {c: np.nanmean(dice[:, c - 1]) for c in known}
    for c in known:
        assert summary["mean"][str(c)]["Dice"] == pytest.approx(means[c])
        assert summary["per_case"][CLASS_NAMES[c]]["Dice"] == pytest.approx(means[c])
    assert summary["mean"]["3"]["Dice"] is None
    assert summary["mean"]["3"]["n_ref"] == 0
    overall = np.mean(list(means.values()))
    assert summary["foreground_mean"]["Dice"] == pytest.approx(overall)
    assert summary["per_case"]["mean"]["Dice"] == pytest.approx(overall)
    assert summary["per_case"]["mean"]["num_classes"] == 4
    fp = [case["metrics"]["5"]["FP"] for case in summary["metric_per_case"]]
    assert summary["mean"]["5"]["FP"] == pytest.approx(np.mean(fp))


def test_present_only_and_pooled(summary, masks):
    truth, prediction = masks
    dice = _dice_of_cases(masks)
    # EDH is in the reference of cases 0 and 2 only; per case counts case 1, too, as 0.
    assert dice[1, 0] == 0
    assert summary["present_only"]["EDH"]["Dice"] == pytest.approx((dice[0, 0] + dice[2, 0]) / 2)
    assert summary["present_only"]["EDH"]["num_cases"] == 2
    assert summary["per_case"]["EDH"]["num_cases"] == 3
    assert summary["pooled"]["EDH"]["Dice"] == pytest.approx(
        _expected_dice(truth == 1, prediction == 1)
    )
    assert summary["pooled"]["IVH"]["Dice"] is None


def test_millilitres(summary, masks):
    truth, prediction = masks
    voxels = (truth == 4).sum((1, 2))
    assert summary["volume_ml"]["SAH"]["reference"] == pytest.approx(voxels @ VOXEL_ML)
    false = ((truth == 0) & (prediction > 0)).sum((1, 2)) * VOXEL_ML
    assert false[3] == 3.0
    assert summary["volume_ml"]["all"]["false"] == pytest.approx(false.sum())
    block = summary["false_blood_ml"]
    assert block["all_cases"]["mean"] == pytest.approx(false.mean())
    assert block["all_cases"]["median"] == pytest.approx(np.median(false))
    assert block["all_cases"]["max"] == pytest.approx(false.max())
    assert block["healthy_cases"] == {"num_cases": 1, "mean": 3.0, "median": 3.0, "max": 3.0}


def test_evaluation_csv_has_a_row_for_each_case_and_class(summary, masks, tmp_path):
    truth, prediction = masks
    with (tmp_path / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["class"]) for row in rows] == [
        (case, CLASS_NAMES[c]) for case in CASES for c in FOREGROUND
    ]
    last = rows[-1]
    assert (last["Dice"], last["FP"], last["n_ref"]) == ("0.0", "3", "0")
    assert [float(last[name]) for name in ("pred_ml", "ref_ml", "false_ml")] == [3.0, 0.0, 3.0]
    assert rows[2]["Dice"] == rows[2]["IoU"] == "", "IVH is on neither side"
    sah = rows[3]
    assert float(sah["ref_ml"]) == pytest.approx((truth[0] == 4).sum() * VOXEL_ML[0])
    assert float(sah["pred_ml"]) == pytest.approx((prediction[0] == 4).sum() * VOXEL_ML[0])
    assert float(sah["Dice"]) == pytest.approx(_expected_dice(truth[0] == 4, prediction[0] == 4))


def test_table_shows_what_the_summary_holds(summary):
    text = tables.format_table(summary)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("test: 4 cases, all slices, checkpoint of step 1200")
    (edh,) = (line for line in lines if line.startswith("EDH"))
    expected = [
        "2",
        *(f"{summary[block]['EDH']['Dice']:.3f}" for block in ("per_case", "present_only")),
        f"{summary['pooled']['EDH']['Dice']:.3f}",
        f"{summary['pooled']['EDH']['IoU']:.3f}",
        *(f"{summary['volume_ml']['EDH'][k]:.1f}" for k in ("reference", "predicted", "false")),
    ]
    assert edh.split()[2:] == expected
    (ivh,) = (line for line in lines if line.startswith("IVH"))
    assert ivh.split()[2:7] == ["0", "-", "-", "-", "-"]
    (mean,) = (line for line in lines if line.startswith("mean"))
    assert f"{summary['pooled']['mean']['Dice']:.3f}" in mean.split()
    (classes,) = (line for line in lines if "classes with a value" in line)
    assert classes.split()[-4:] == ["4", "4", "4", "4"]
    assert lines[-1] == ("dice_coef_multiclass: 0.9877 (counts background: for comparison only)")
    assert text.count("0.9877") == 1


def test_table_of_a_set_where_nothing_is_found_or_present():
    healthy = np.zeros((2, NUM_CLASSES, NUM_CLASSES), int)
    healthy[:, 0, 0] = 100
    summary = summarize(
        ["a", "b"],
        healthy,
        voxel_volume_ml=np.ones(2),
        cross_entropy=0.0,
        dice_coef_multiclass=1.0,
        split="validation",
        step=1,
        slices="blood",
    )
    text = tables.format_table(summary)
    assert "slices with blood only" in text
    assert "mean 0.00 mL in 2 heads without blood" in text
    assert summary["pooled"]["mean"] == {"Dice": None, "IoU": None, "num_classes": 0}


def test_millilitres_of_unknown_spacing_do_not_exist(masks):
    """Pictures have no spacing: their counts stand, their millilitres are not claimed."""
    summary = summarize(
        CASES,
        _confusion(masks),
        voxel_volume_ml=np.full(len(CASES), np.nan),
        cross_entropy=0.1,
        dice_coef_multiclass=0.9,
        split="test",
        step=1,
    )
    assert summary["volume_ml"]["all"] == {"reference": None, "predicted": None, "false": None}
    assert summary["false_blood_ml"]["healthy_cases"]["num_cases"] == 1
    assert summary["false_blood_ml"]["healthy_cases"]["mean"] is None
    assert summary["pooled"]["mean"]["Dice"] is not None
    assert "nan" not in tables.format_table(summary)
