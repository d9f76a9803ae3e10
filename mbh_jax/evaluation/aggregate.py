"""What is said about a set of scored cases: intervals, distances, lesions, volumes, confusion."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from mbh_jax.evaluation import calibration, lesions, statistics, surface, volumes
from mbh_jax.evaluation.case_table import REGIONS, ScoredCase, region_counts
from mbh_jax.evaluation.overlap import mean_of_known
from mbh_jax.labels import CLASS_NAMES, FOREGROUND

SEED = 0
"""Of the bootstrap."""

CLEARLY_HIGHER_DICE = 0.1
"""Another order of the classes is worth a warning if the mean pooled Dice grows by so much."""

_KINDS = len(FOREGROUND)


class Counts:
    """Voxels of each case and region, (V, 6) int64, the regions in the order of `REGIONS`."""

    def __init__(self, scored: Sequence[ScoredCase]):
        rows = [[region_counts(one.confusion.sum(0), name) for name in REGIONS] for one in scored]
        self.n_ref, self.n_pred, self.tp = np.moveaxis(np.array(rows, np.int64), -1, 0)

    @property
    def dice(self) -> np.ndarray:
        """(V, 6) float64; NaN where neither mask has the region."""
        return _ratio(2 * self.tp, self.n_ref + self.n_pred)

    @property
    def iou(self) -> np.ndarray:
        """(V, 6) float64; NaN where neither mask has the region."""
        return _ratio(self.tp, self.n_ref + self.n_pred - self.tp)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """float64 of the shape of both; NaN where `below` is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=below > 0)


def aggregate(scored: Sequence[ScoredCase], patients: Sequence[str]) -> dict[str, Any]:
    """The keys that stand beside the overlap of classes in a summary (docs/outputs.md).

    Args:
        scored: the cases.
        patients: whose they are; a patient's cases stay together in the bootstrap.
    """
    counts = Counts(scored)
    names, number = np.unique(np.array(patients), return_inverse=True)
    found = {
        "num_patients": len(names),
        "any": _any_block(counts),
        "sensitivity": _shares(counts.tp, counts.n_ref),
        "precision": _shares(counts.tp, counts.n_pred),
        "intervals": _intervals(counts, number),
        "distances": {name: _distances(scored, counts, i) for i, name in enumerate(REGIONS)},
        "surface_dice": {name: _surface_dice(scored, name) for name in REGIONS},
        "lesions": {name: _lesions(scored, name) for name in REGIONS},
        "volume_agreement": {name: _agreement(scored, name) for name in REGIONS},
        "absent": {name: _absent(scored, counts, i) for i, name in enumerate(REGIONS)},
        "confusion_of_types": _confusion_of_types(scored),
    }
    if block := _calibration(scored):
        found["calibration"] = block
    warnings = [statistics.sample_size_warning(len(names)), order_warning(scored)]
    return found | {"warnings": [text for text in warnings if text]}


def _any_block(counts: Counts) -> dict[str, Any]:
    """All blood together, by the three ways of counting."""
    present, total = counts.n_ref[:, -1] > 0, (counts.n_ref + counts.n_pred)[:, -1].sum()
    tp = counts.tp[:, -1].sum()
    cases = {"Dice": counts.dice[:, -1], "IoU": counts.iou[:, -1]}
    num_known, num_present = (int(np.count_nonzero(n)) for n in (~np.isnan(cases["Dice"]), present))
    return {
        "per_case": {name: float(mean_of_known(values)) for name, values in cases.items()}
        | {"num_cases": num_known},
        "present_only": {
            name: float(mean_of_known(np.where(present, values, np.nan)))
            for name, values in cases.items()
        }
        | {"num_cases": num_present},
        "pooled": {
            "Dice": float(_ratio(2 * tp, total)),
            "IoU": float(_ratio(tp, total - tp)),
            "num_cases": num_present,
        },
    }


def _shares(tp: np.ndarray, total: np.ndarray) -> dict[str, Any]:
    """Sensitivity (total: `n_ref`) or precision (`n_pred`) of the voxels of each region.

    Args:
        tp: (V, 6) voxels.
        total: (V, 6) voxels.

    Returns:
        For each of `REGIONS` the mean over the cases that have a value ("per_case"), how many
        those are, and the share of the voxels of all cases ("pooled"); "mean" is over the kinds of
        blood that have a value.
    """
    cases, pooled = _ratio(tp, total), _ratio(tp.sum(0), total.sum(0))
    means, numbers = mean_of_known(cases), np.isfinite(cases).sum(0)
    block: dict[str, Any] = {
        name: {"per_case": means[i], "num_cases": numbers[i], "pooled": pooled[i]}
        for i, name in enumerate(REGIONS)
    }
    block["mean"] = {
        "per_case": mean_of_known(means[:_KINDS]),
        "pooled": mean_of_known(pooled[:_KINDS]),
        "num_classes": np.isfinite(means[:_KINDS]).sum(),
    }
    return block


def _intervals(counts: Counts, patients: np.ndarray) -> dict[str, Any]:
    """95 % percentile bootstrap intervals over patients of each Dice, all with the same draws."""
    draws = statistics.draw_patients(int(patients.max()) + 1, seed=SEED)

    def ratios(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        summed = [statistics.sum_by_patient(values, patients) for values in (above, below)]
        return statistics.resampled_ratios(summed[0], summed[1], draws)

    dice, present = counts.dice, counts.n_ref > 0
    known = np.isfinite(dice)
    resampled = {
        "per_case": (ratios(np.where(known, dice, 0.0), known * 1.0), known),
        "present_only": (ratios(np.where(present, dice, 0.0), present * 1.0), present),
        "pooled": (ratios(2.0 * counts.tp, 1.0 * (counts.n_ref + counts.n_pred)), present),
    }
    block: dict[str, Any] = {"resamples": statistics.NUM_RESAMPLES, "seed": SEED}
    for rule, (values, which) in resampled.items():
        mean = mean_of_known(values[:, :_KINDS], 1)
        interval = statistics.percentile_interval(np.concatenate([values, mean[:, None]], 1))
        cases = [*which.sum(0), which[:, :_KINDS].any(1).sum()]
        block[rule] = {
            name: {"low": low, "high": high, "num_cases": int(n)}
            for name, low, high, n in zip((*REGIONS, "mean"), *interval, cases, strict=True)
        }
    return block


def _distances(scored: Sequence[ScoredCase], counts: Counts, region: int) -> dict[str, Any]:
    """HD95 over cases, and in how many the region is found, missed and false.

    A case without millimetres has no distance: it is not in `num_cases`, but in the other numbers.
    """
    distances = np.array([one.regions[REGIONS[region]].hd95_mm for one in scored])
    in_mm = np.array([math.isfinite(one.voxel_ml) for one in scored])
    true, predicted = counts.n_ref[:, region] > 0, counts.n_pred[:, region] > 0
    found = surface.summarize_distances(distances[in_mm], true[in_mm], predicted[in_mm])
    found = found._replace(
        num_found=int((true & predicted).sum()),
        num_missed=int((true & ~predicted).sum()),
        num_false=int((predicted & ~true).sum()),
    )
    # JSON has no infinity: a median that is infinite is written as a word.
    return {name: "inf" if value == math.inf else value for name, value in found._asdict().items()}


def _surface_dice(scored: Sequence[ScoredCase], region: str) -> dict[str, float]:
    """Means over the cases that have a value, and how many have one."""
    kinds = ("surface_dice", "surface_area_dice")
    names = [f"{kind}_{tolerance}mm" for kind in kinds for tolerance in (1, 2)]
    values = np.array([[getattr(one.regions[region], name) for name in names] for one in scored])
    means = dict(zip(names, mean_of_known(values).tolist(), strict=True))
    return means | {"num_cases": int(np.isfinite(values[:, 0]).sum())}


def _lesions(scored: Sequence[ScoredCase], region: str) -> dict[str, Any]:
    """Lesions found, missed and false: all, and by size where millilitres are known."""
    of_cases = [one.regions[region].lesions for one in scored]
    block: dict[str, Any] = {
        "found": int(sum(one.found.sum() for one in of_cases)),
        "missed": int(sum((~one.found).sum() for one in of_cases)),
        "false": int(sum(one.false.sum() for one in of_cases)),
    }
    measured = [one for case, one in zip(scored, of_cases, strict=True) if case.voxel_ml > 0]
    by_size = [lesions.count_by_size(one) for one in measured]
    block["by_size"] = {
        size: {
            kind: int(sum(getattr(counts, kind)[i] for counts in by_size))
            for kind in ("found", "missed", "false")
        }
        for i, size in enumerate(lesions.SIZE_NAMES)
    }
    return block


def _calibration(scored: Sequence[ScoredCase]) -> dict[str, Any]:
    """Of the cases whose probabilities were kept; empty without any."""
    known = [one.calibration for one in scored if one.calibration is not None]
    block: dict[str, Any] = {"num_cases": len(known)} if known else {}
    for name in ("foreground", "whole") if known else ():
        bins = calibration.add_bins([getattr(one, name) for one in known])
        block[name] = {"ece": calibration.expected_calibration_error(bins), **bins._asdict()}
    return block


def _millilitres(scored: Sequence[ScoredCase], region: str) -> tuple[np.ndarray, np.ndarray]:
    found = [one.regions[region] for one in scored]
    return np.array([one.pred_ml for one in found]), np.array([one.ref_ml for one in found])


def _agreement(scored: Sequence[ScoredCase], region: str) -> dict[str, Any]:
    return volumes.volume_agreement(*_millilitres(scored, region))._asdict()


def _absent(scored: Sequence[ScoredCase], counts: Counts, region: int) -> dict[str, Any]:
    """False blood in the cases whose reference lacks the region; of "any", in healthy heads.

    Cases are counted by their voxels; without millilitres these have no value.
    """
    found = volumes.false_blood(*_millilitres(scored, REGIONS[region]))
    absent = counts.n_ref[:, region] == 0
    if found.num_cases < absent.sum():
        found = volumes.FalseBlood(0, 0, *[math.nan] * 4)
    return found._asdict() | {
        "num_cases": int(absent.sum()),
        "num_with_false": int((counts.n_pred[absent, region] > 0).sum()),
    }


def _confusion_of_types(scored: Sequence[ScoredCase]) -> dict[str, dict[str, int]]:
    """Voxels by true and predicted class, added over cases."""
    total = sum(one.confusion.sum(0) for one in scored)
    return {
        true: dict(zip(CLASS_NAMES, row, strict=True))
        for true, row in zip(CLASS_NAMES, np.asarray(total).tolist(), strict=True)
    }


def order_warning(scored: Sequence[ScoredCase]) -> str | None:
    """What to say where the predictions look as if their classes had another order.

    Pooled Dice of each predicted class with each true one; the best assignment of them (Kuhn, Naval
    Research Logistics Quarterly 2 (1955) 83-97) is compared with the order as it is.
    """
    total = np.asarray(sum(one.confusion.sum(0) for one in scored), np.float64)
    both = total[1:, 1:]
    sums = total.sum(1)[1:, None] + total.sum(0)[None, 1:]
    dice = np.divide(2 * both, sums, out=np.zeros_like(both), where=sums > 0)
    true, predicted = linear_sum_assignment(-dice)
    gain = (dice[true, predicted].sum() - np.trace(dice)) / _KINDS
    if gain < CLEARLY_HIGHER_DICE:
        return None
    changed = ", ".join(
        f"{CLASS_NAMES[p + 1]} is {CLASS_NAMES[t + 1]}"
        for t, p in zip(true, predicted, strict=True)
        if t != p and both[t, p]
    )
    return (
        f"with another order of the predicted classes ({changed}) the mean pooled Dice would be "
        f"{dice[true, predicted].mean():.2f} and not {np.trace(dice) / _KINDS:.2f}: check which "
        "value stands for which class"
    )
