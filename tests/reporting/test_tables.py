"""Tables and summary against boolean masks, nanmean and hand-computed numbers."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from mbh_jax.evaluation.case_table import Masks, score_masks
from mbh_jax.evaluation.summary import summarize, write_evaluation
from mbh_jax.labels import CLASS_NAMES, FOREGROUND
from mbh_jax.reporting import tables

NNUNET_FIELDS = ["Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref"]
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


def _scored(masks, voxel_ml=VOXEL_ML, rules=()):
    """The cases as volumes of one slice, so thick that their voxels have these millilitres."""
    affines = [None if np.isnan(ml) else np.diag([-1.0, -1.0, 1000 * ml, 1.0]) for ml in voxel_ml]
    return [
        score_masks(Masks(case, true[None], predicted[None], affine, rules))
        for case, true, predicted, affine in zip(CASES, *masks, affines, strict=False)
    ]


FACTS = {
    "split": "test",
    "slices": "all",
    "checkpoint_step": 1200,
    "cross_entropy": 0.125,
    "including_background": {"dice_coef_multiclass": 0.98765},
}


@pytest.fixture
def summary(masks, tmp_path):
    scored = _scored(masks)
    summary = summarize(scored, facts=FACTS)
    write_evaluation(tmp_path, summary, scored)
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
    tables_of = ["confusion", "per_case", "per_lesion", "per_slice"]
    assert names == sorted(
        [*(f"{name}.csv" for name in tables_of), "evaluation.json", "summary.json"]
    )


def test_readers_of_nnunets_summary_get_its_numbers(summary, masks, tmp_path):
    """As nnU-Net's own scripts and its users' read and average it, with NaN for an absent class."""
    found = json.loads((tmp_path / "summary.json").read_text())
    dice = _dice_of_cases(masks)
    for which in ("reference_file", "prediction_file"):
        names = [Path(case[which]).name for case in found["metric_per_case"]]
        assert [name.removesuffix(".nii.gz") for name in names] == CASES
    for c in FOREGROUND:
        column = [case["metrics"][str(c)]["Dice"] for case in found["metric_per_case"]]
        np.testing.assert_allclose(np.array(column, np.float64), dice[:, c - 1], rtol=1e-12)
        for name in NNUNET_FIELDS:
            values = [case["metrics"][str(c)][name] for case in found["metric_per_case"]]
            expected = np.nan if np.isnan(values).all() else np.nanmean(values)
            np.testing.assert_allclose(found["mean"][str(c)][name], expected, rtol=1e-12)
    assert np.isnan(found["mean"]["3"]["Dice"]), "no case has the class"
    for name in NNUNET_FIELDS:
        expected = np.mean([of_class[name] for of_class in found["mean"].values()])
        np.testing.assert_allclose(found["foreground_mean"][name], expected, rtol=1e-12)
    assert np.isnan(found["foreground_mean"]["Dice"]), "as nnU-Net's, if a class is in no case"
    # Ours beside nnU-Net's, by whose names no reader looks for NaN.
    assert {name: found[name] for name in ("pooled", "per_case")} == {
        name: summary[name] for name in ("pooled", "per_case")
    }


def test_nnunets_blocks_have_its_keys_and_no_others(tmp_path, summary):
    """The schema that nnU-Net's `save_summary_json` writes, keys sorted as there."""
    found = json.loads((tmp_path / "summary.json").read_text())
    classes = ["1", "2", "3", "4", "5"]
    assert list(found["foreground_mean"]) == NNUNET_FIELDS
    assert list(found["mean"]) == classes
    for case in found["metric_per_case"]:
        assert list(case) == ["metrics", "prediction_file", "reference_file"]
        assert list(case["metrics"]) == classes
        for metrics in case["metrics"].values():
            assert list(metrics) == NNUNET_FIELDS
            counts = [metrics[name] for name in NNUNET_FIELDS if name not in ("Dice", "IoU")]
            assert all(isinstance(count, int) for count in counts)
    for of_class in found["mean"].values():
        assert list(of_class) == NNUNET_FIELDS


def test_nnunets_foreground_mean_is_the_mean_of_all_classes(masks):
    """Without class 3 in nnU-Net's labels it would not be NaN; with a value it is a plain mean."""
    truth, prediction = (mask.copy() for mask in masks)
    truth[0, 5, 5] = prediction[0, 5, 6] = 3
    summary = summarize(_scored((truth, prediction)))
    dice = [summary["mean"][str(c)]["Dice"] for c in FOREGROUND]
    assert summary["foreground_mean"]["Dice"] == pytest.approx(sum(dice) / 5)
    assert summary["foreground_mean"]["Dice"] == pytest.approx(summary["per_case"]["mean"]["Dice"])


def test_summary_has_nnunet_fields(summary, masks):
    truth, prediction = masks
    assert list(summary["patients"]) == CASES
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
    assert summary["foreground_mean"]["Dice"] is None, "a class has no value"
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
    for v, case in enumerate(CASES):
        block = summary["volume_ml_per_case"][case]
        assert block["SAH"]["reference"] == pytest.approx(voxels[v] * VOXEL_ML[v])
        assert block["all"]["false"] == pytest.approx(false[v])
    block = summary["false_blood_ml"]
    assert block["all_cases"]["mean"] == pytest.approx(false.mean())
    assert block["all_cases"]["median"] == pytest.approx(np.median(false))
    assert block["all_cases"]["max"] == pytest.approx(false.max())
    assert block["healthy_cases"] == pytest.approx(
        {"num_cases": 1, "mean": 3.0, "median": 3.0, "max": 3.0}
    )


def _rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_per_case_csv_has_a_row_for_each_case_and_region(summary, masks, tmp_path):
    truth, prediction = masks
    rows = _rows(tmp_path / "per_case.csv")
    names = [*(CLASS_NAMES[c] for c in FOREGROUND), "any"]
    assert [(row["case"], row["class"]) for row in rows] == [
        (case, name) for case in CASES for name in names
    ]
    false = rows[-2]  # SDH of the healthy case
    assert (false["dice"], false["n_pred"], false["n_ref"]) == ("0.0", "3", "0")
    assert (false["hd95_mm"], false["lesions_ref"], false["lesions_false"]) == ("inf", "0", "1")
    assert [float(false[name]) for name in ("pred_ml", "ref_ml")] == pytest.approx([3, 0])
    assert rows[2]["dice"] == rows[2]["iou"] == rows[2]["hd95_mm"] == "", "IVH is on neither side"
    for row, true, predicted in (
        (rows[3], truth[0] == 4, prediction[0] == 4),
        (rows[5], truth[0] > 0, prediction[0] > 0),
    ):
        assert int(row["tp"]) == (true & predicted).sum()
        assert float(row["ref_ml"]) == pytest.approx(true.sum() * VOXEL_ML[0])
        assert float(row["pred_ml"]) == pytest.approx(predicted.sum() * VOXEL_ML[0])
        assert float(row["dice"]) == pytest.approx(_expected_dice(true, predicted))


def test_the_counts_suffice_to_make_the_tables_again(summary, masks, tmp_path):
    """Pooled Dice from per_slice.csv, and from confusion.csv; lesions from per_lesion.csv."""
    slices, cases = _rows(tmp_path / "per_slice.csv"), _rows(tmp_path / "per_case.csv")
    confusion, lesions = _rows(tmp_path / "confusion.csv"), _rows(tmp_path / "per_lesion.csv")
    for name in ("EDH", "SDH", "any"):
        sums = {
            column: sum(int(row[column]) for row in slices if row["class"] == name)
            for column in ("n_ref", "n_pred", "tp")
        }
        block = summary["any"]["pooled"] if name == "any" else summary["pooled"][name]
        assert 2 * sums["tp"] / (sums["n_ref"] + sums["n_pred"]) == pytest.approx(block["Dice"])
        listed = [row for row in lesions if row["class"] == name and row["mask"] == "reference"]
        assert len(listed) == sum(int(row["lesions_ref"]) for row in cases if row["class"] == name)
        assert sum(int(row["voxels"]) for row in listed) == sums["n_ref"]
        assert sum(int(row["matched"]) for row in listed) == summary["lesions"][name]["found"]
    diagonal = [row for row in confusion if row["true_class"] == row["predicted_class"] == "SDH"]
    assert sum(int(row["voxels"]) for row in diagonal) == sum(
        int(row["tp"]) for row in cases if row["class"] == "SDH"
    )
    assert sum(int(row["voxels"]) for row in confusion) == masks[0].size


def test_intervals_hold_the_value_and_patients_stay_together(masks):
    summary = summarize(_scored(masks), facts=FACTS)
    for rule in ("per_case", "present_only", "pooled"):
        for name in ("EDH", "SDH"):
            block = summary["intervals"][rule][name]
            assert block["low"] <= summary[rule][name]["Dice"] <= block["high"]
    assert summary["intervals"]["per_case"]["IVH"]["low"] is None
    # Of one patient alone every resample is the same.
    one = summarize(_scored(masks), patients=["p"] * 4, facts=FACTS)
    assert one["num_patients"] == 1
    block = one["intervals"]["pooled"]["any"]
    assert block["low"] == block["high"] == pytest.approx(one["any"]["pooled"]["Dice"])
    assert "1 patient:" in one["warnings"][0]


def test_classes_in_another_order_are_noticed(masks):
    truth, _ = masks
    swapped = np.array([0, 2, 1, 3, 4, 5])[truth]
    (_, warning) = summarize(_scored((truth, swapped)))["warnings"]
    assert "EDH is IPH, IPH is EDH" in warning or "IPH is EDH, EDH is IPH" in warning
    assert len(summarize(_scored((truth, truth)))["warnings"]) == 1


def test_scores_of_challenges_stand_in_columns_of_their_own(masks, tmp_path):
    scored = _scored(masks, rules=("mbhseg25", "brats"))
    write_evaluation(tmp_path, summarize(scored), scored, ("mbhseg25", "brats"))
    rows = _rows(tmp_path / "per_case.csv")
    assert list(rows[0])[-3:] == ["mbhseg25_dice", "brats_dice", "brats_hd95_mm"]
    assert float(rows[-1]["mbhseg25_dice"]) == pytest.approx(2 * 97 / 197)  # 3 false voxels
    assert rows[-2]["mbhseg25_dice"] == ""
    assert float(rows[-2]["brats_hd95_mm"]) == 374


def test_table_shows_what_the_summary_holds(summary):
    text = tables.format_table(summary)
    lines = text.splitlines()
    assert max(len(line) for line in lines if not line.startswith("warning")) <= 100
    assert lines[0].startswith("test: 4 cases, all slices, checkpoint of step 1200")
    (edh,) = (line for line in lines if line.startswith("EDH"))
    low, high = (summary["intervals"]["per_case"]["EDH"][key] for key in ("low", "high"))
    dice = [summary[rule]["EDH"]["Dice"] for rule in ("per_case", "present_only", "pooled")]
    expected = [
        *("2", "0", f"{dice[0]:.3f}", f"{low:.2f}-{high:.2f}", f"{dice[1]:.3f}", f"{dice[2]:.3f}"),
        *(f"{summary['volume_ml']['EDH'][k]:.1f}" for k in ("reference", "predicted", "false")),
    ]
    assert edh.split()[2:] == expected
    (ivh,) = (line for line in lines if line.startswith("IVH"))
    assert ivh.split()[2:8] == ["0", "0", "-", "-", "-", "-"]
    (mean,) = (line for line in lines if line.startswith("mean"))
    assert f"{summary['pooled']['mean']['Dice']:.3f}" in mean.split()
    (classes,) = (line for line in lines if "classes with a value" in line)
    assert classes.split()[-3:] == ["4", "4", "4"]
    (blood,) = (line for line in lines if line.startswith("any"))
    assert f"{summary['any']['present_only']['Dice']:.3f}" in blood.split()
    assert "dice_coef_multiclass: 0.9877 (counts background: for comparison only)" in lines
    assert lines[-1].startswith("warning: 4 patients")
    assert text.count("0.9877") == 1


def test_columns_never_run_together(summary):
    summary["volume_ml"]["EDH"] = dict.fromkeys(("reference", "predicted", "false"), 123456789.04)
    assert "123456789.0 123456789.0 123456789.0" in tables.format_table(summary)


def test_table_of_a_set_where_nothing_is_found_or_present():
    healthy = np.zeros((2, 12, 12), int)
    scored = _scored((healthy, healthy), np.ones(2))
    summary = summarize(scored, facts=FACTS | {"slices": "blood"})
    text = tables.format_table(summary)
    assert "slices with blood only" in text
    assert "mean 0.00 mL in 2 heads without blood" in text
    assert summary["pooled"]["mean"] == {"Dice": None, "IoU": None, "num_classes": 0}


def test_millilitres_of_unknown_spacing_do_not_exist(masks):
    """Pictures have no spacing: their counts stand, their millilitres are not claimed."""
    summary = summarize(_scored(masks, np.full(len(CASES), np.nan)), facts=FACTS)
    assert summary["volume_ml"]["all"] == {"reference": None, "predicted": None, "false": None}
    assert summary["false_blood_ml"]["healthy_cases"]["num_cases"] == 1
    assert summary["false_blood_ml"]["healthy_cases"]["mean"] is None
    assert summary["pooled"]["mean"]["Dice"] is not None
    assert "nan" not in tables.format_table(summary)


def test_what_needs_no_spacing_is_counted_without_one(masks):
    """Missed and false classes, and healthy heads with blood; sums of millilitres do not exist."""
    truth, prediction = masks
    prediction = prediction.copy()
    prediction[0][prediction[0] == 5] = 0
    known, unknown = (
        summarize(_scored((truth, prediction), ml)) for ml in (VOXEL_ML, np.full(4, np.nan))
    )
    for name in ("EDH", "SDH", "any"):
        for key in ("num_found", "num_missed", "num_false"):
            assert unknown["distances"][name][key] == known["distances"][name][key]
        assert unknown["distances"][name]["num_cases"] == 0
        for key in ("num_cases", "num_with_false"):
            assert unknown["absent"][name][key] == known["absent"][name][key]
        assert known["absent"][name]["total_ml"] > 0
        assert unknown["absent"][name]["total_ml"] is None
    assert known["distances"]["SDH"]["num_missed"] == 1
    assert known["absent"]["any"]["num_with_false"] == 1


def test_sensitivity_precision_and_iou_of_a_set(summary, masks):
    truth, prediction = masks
    for name, true, predicted in (
        ("SAH", truth == 4, prediction == 4),
        ("any", truth > 0, prediction > 0),
    ):
        for key, total in (("sensitivity", true), ("precision", predicted)):
            cases = [
                (t & p).sum() / n.sum()
                for t, p, n in zip(true, predicted, total, strict=True)
                if n.any()
            ]
            block = summary[key][name]
            assert block["num_cases"] == len(cases)
            assert block["per_case"] == pytest.approx(np.mean(cases))
            assert block["pooled"] == pytest.approx((true & predicted).sum() / total.sum())
    assert summary["sensitivity"]["IVH"] == {"per_case": None, "num_cases": 0, "pooled": None}
    assert summary["sensitivity"]["mean"]["num_classes"] == 4
    iou = [(t & p).sum() / (t | p).sum() for t, p in zip(truth > 0, prediction > 0, strict=True)]
    assert summary["any"]["per_case"]["IoU"] == pytest.approx(np.mean(iou))
    assert summary["any"]["present_only"]["IoU"] == pytest.approx(np.mean(iou[:3]))
    pooled = ((truth > 0) & (prediction > 0)).sum() / ((truth > 0) | (prediction > 0)).sum()
    assert summary["any"]["pooled"]["IoU"] == pytest.approx(pooled)
