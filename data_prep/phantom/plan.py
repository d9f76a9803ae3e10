"""What one phantom head is to be, drawn before anything is rendered: who, which blood, how much.

Every draw comes from a generator seeded by (seed, index, stream), so that head `index` of a seed
does not depend on how many heads are made, in which order, or by how many processes.
"""

import dataclasses
import math

import numpy as np

from mbh_jax import labels
from mbh_jax.errors import UserError

PREVALENCES = ("bhsd", "even", "varied")

EDH, IPH, IVH, SAH, SDH = labels.FOREGROUND

# Causes, their share of heads with blood, and each cause's probability of every class. Together
# they give BHSD's class frequencies (EDH 23, IPH 127, IVH 104, SAH 109, SDH 70 of 192 volumes) and
# the company classes keep: contusions with subdural blood, deep bleeds broken into a ventricle.
CAUSES: dict[str, tuple[float, dict[int, float]]] = {
    "trauma": (0.45, {EDH: 0.26, IPH: 0.50, IVH: 0.25, SAH: 0.66, SDH: 0.70}),
    "hypertension": (0.40, {EDH: 0.00, IPH: 1.00, IVH: 0.75, SAH: 0.30, SDH: 0.10}),
    "aneurysm": (0.15, {EDH: 0.00, IPH: 0.25, IVH: 0.86, SAH: 1.00, SDH: 0.07}),
}

HEALTHY_SHARE = 0.08
FOLLOW_UP_SHARE = 0.06

# BHSD: median 15 mL and mean 33.2 mL a volume. A log-normal's mean is median * exp(sigma^2 / 2).
TOTAL_MEDIAN_ML = 15.0
TOTAL_SIGMA = math.sqrt(2.0 * math.log(33.2 / TOTAL_MEDIAN_ML))
TOTAL_RANGE_ML = (0.05, 260.0)
CLASS_WEIGHT = {EDH: 0.9, IPH: 1.0, IVH: 0.5, SAH: 0.5, SDH: 1.0}
CLASS_CAPACITY_ML = {EDH: 140.0, IPH: 130.0, IVH: 70.0, SAH: 50.0, SDH: 170.0}
EVEN_MEDIAN_ML = {EDH: 32.0, IPH: 30.0, IVH: 20.0, SAH: 20.0, SDH: 40.0}
EVEN_SMALLEST_ML = 10.0
EVEN_BLOCK = 8
"""Of every 8 heads in a row one is healthy and each class is in four of the others."""
VARIED_MEDIAN_ML = {EDH: 12.0, IPH: 9.0, IVH: 9.0, SAH: 9.0, SDH: 22.0}
VARIED_SIGMA = 1.2
VARIED_SMALLEST_ML = 0.4

STREAM_PLAN, STREAM_FOLLOW_UP, STREAM_SCAN, STREAM_HEAD, STREAM_NOISE, STREAM_BLOCK = range(6)


@dataclasses.dataclass(frozen=True)
class HeadPlan:
    """One study of one head.

    Attributes:
        seed: the data set's seed.
        index: number of the study in the data set.
        head_index: number of the first study of the same head; equals `index` for a first study.
        patient_id: as BHSD writes it, `ID_` and 8 hexadecimal digits.
        study_id: `ID_` and 10 hexadecimal digits.
        cause: why it bleeds, a key of `CAUSES`, or "healthy".
        volumes_ml: for each label value present, the blood to be placed in mL.
        age_years: shapes sulci, ventricles and calcifications.
        blood_age_days: 0 for a first study's fresh blood; lowers the clot's HU.
        varied: whether blood is as faint, and images and brains are as different, as real ones.
    """

    seed: int
    index: int
    head_index: int
    patient_id: str
    study_id: str
    cause: str
    volumes_ml: dict[int, float]
    age_years: float
    blood_age_days: float
    varied: bool

    @property
    def name(self) -> str:
        """The volume's name without `.nii.gz`: patient, then study."""
        return f"{self.patient_id}_{self.study_id}"

    def rng(self, stream: int) -> np.random.Generator:
        """A generator that belongs to this study alone."""
        return np.random.default_rng([self.seed, self.index, stream])

    def head_rng(self, stream: int) -> np.random.Generator:
        """A generator that all studies of the same head share."""
        return np.random.default_rng([self.seed, self.head_index, stream])


def plan_head(seed: int, index: int, prevalence: str) -> HeadPlan:
    """Draws study `index` of the data set `seed`.

    Raises:
        UserError: `prevalence` is not one of `PREVALENCES`, or a number is negative.
    """
    if prevalence not in PREVALENCES:
        raise UserError(
            f"prevalence {prevalence!r} is unknown: choose one of {', '.join(PREVALENCES)}"
        )
    if seed < 0 or index < 0:
        raise UserError(f"seed {seed} and head index {index} must not be negative")
    head_index = index
    while _is_follow_up(seed, head_index):
        head_index -= 1
    first = np.random.default_rng([seed, head_index, STREAM_PLAN])
    patient_id = _hex_id(first, 8)
    study_id = _hex_id(first, 10)
    age_years = float(np.clip(first.normal(58.0, 18.0), 18.0, 95.0))
    if prevalence == "bhsd":
        cause, classes = _draw_bhsd(first)
        volumes_ml = _bhsd_volumes(first, classes)
    else:
        cause, classes = _draw_even(seed, head_index, first)
        draw = _varied_volumes if prevalence == "varied" else _even_volumes
        volumes_ml = draw(first, classes)
    blood_age_days = float(first.gamma(1.2, 0.8))
    if index != head_index:
        later = np.random.default_rng([seed, index, STREAM_PLAN])
        study_id = _hex_id(later, 10)
        days = float(later.uniform(1.0, 6.0)) * (index - head_index)
        blood_age_days += days
        volumes_ml = {
            value: float(max(volume * later.uniform(0.7, 1.15), TOTAL_RANGE_ML[0]))
            for value, volume in volumes_ml.items()
        }
    return HeadPlan(
        seed=seed,
        index=index,
        head_index=head_index,
        patient_id=patient_id,
        study_id=study_id,
        cause=cause,
        volumes_ml=volumes_ml,
        age_years=age_years,
        blood_age_days=blood_age_days,
        varied=prevalence == "varied",
    )


def _is_follow_up(seed: int, index: int) -> bool:
    if index == 0:
        return False
    draw = np.random.default_rng([seed, index, STREAM_FOLLOW_UP]).random()
    return bool(draw < FOLLOW_UP_SHARE) and not _is_follow_up(seed, index - 1)


def _hex_id(rng: np.random.Generator, digits: int) -> str:
    return "ID_" + "".join(f"{digit:x}" for digit in rng.integers(0, 16, digits))


def _draw_bhsd(rng: np.random.Generator) -> tuple[str, list[int]]:
    healthy = rng.random() < HEALTHY_SHARE
    causes = list(CAUSES)
    cause = causes[rng.choice(len(causes), p=[CAUSES[name][0] for name in causes])]
    classes: list[int] = []
    while not classes:
        classes = [value for value, p in CAUSES[cause][1].items() if rng.random() < p]
    return ("healthy", []) if healthy else (cause, classes)


def _draw_even(seed: int, index: int, rng: np.random.Generator) -> tuple[str, list[int]]:
    block, row = divmod(index, EVEN_BLOCK)
    block_rng = np.random.default_rng([seed, block, STREAM_BLOCK])
    healthy_row = int(block_rng.integers(EVEN_BLOCK))
    bleeding = [number for number in range(EVEN_BLOCK) if number != healthy_row]
    present = np.zeros((EVEN_BLOCK, labels.NUM_CLASSES), bool)
    while not present[bleeding].any(axis=1).all():
        present[:] = False
        for value in labels.FOREGROUND:
            present[block_rng.permutation(bleeding)[: EVEN_BLOCK // 2], value] = True
    classes = [value for value in labels.FOREGROUND if present[row, value]]
    if not classes:
        return "healthy", []
    likely = {
        name: share * math.prod(p if value in classes else 1.0 - p for value, p in table.items())
        for name, (share, table) in CAUSES.items()
    }
    weights = np.asarray(list(likely.values())) + 1e-9
    return list(likely)[rng.choice(len(likely), p=weights / weights.sum())], classes


def _bhsd_volumes(rng: np.random.Generator, classes: list[int]) -> dict[int, float]:
    total_ml = float(
        np.clip(rng.lognormal(math.log(TOTAL_MEDIAN_ML), TOTAL_SIGMA), *TOTAL_RANGE_ML)
    )
    parts = {value: CLASS_WEIGHT[value] * rng.gamma(1.5) for value in classes}
    whole = sum(parts.values())
    return {
        value: float(np.clip(total_ml * part / whole, TOTAL_RANGE_ML[0], CLASS_CAPACITY_ML[value]))
        for value, part in parts.items()
    }


def _even_volumes(rng: np.random.Generator, classes: list[int]) -> dict[int, float]:
    return {
        value: float(
            np.clip(
                rng.lognormal(math.log(EVEN_MEDIAN_ML[value]), 0.4),
                EVEN_SMALLEST_ML,
                CLASS_CAPACITY_ML[value],
            )
        )
        for value in classes
    }


def _varied_volumes(rng: np.random.Generator, classes: list[int]) -> dict[int, float]:
    return {
        value: float(
            np.clip(
                rng.lognormal(math.log(VARIED_MEDIAN_ML[value]), VARIED_SIGMA),
                VARIED_SMALLEST_ML,
                CLASS_CAPACITY_ML[value],
            )
        )
        for value in classes
    }
