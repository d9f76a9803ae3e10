"""What age and chance make of one brain, before any of it is rendered."""

import dataclasses
from typing import NamedTuple

import numpy as np

from data_prep.phantom import hounsfield, shapes


class Infarct(NamedTuple):
    """A part of the brain that died of a blocked artery, less dense than the rest.

    Attributes:
        middle: in brain coordinates, in mm.
        semi_axes_mm: of an ellipsoid.
        hu: its density.
    """

    middle: shapes.Position
    semi_axes_mm: tuple[float, float, float]
    hu: float


@dataclasses.dataclass(frozen=True)
class Cerebrum:
    """What age and chance make of one brain.

    Attributes:
        sulcus_mm: half-width of a sulcus.
        sulcus_depth_mm: how deep sulci reach.
        subdural_gap_mm: CSF between the inner table and the gyral crowns.
        ventricle_mm: added to the radius of the ventricles.
        asymmetry_mm: the right lateral ventricle's radius above the left one's.
        falx_mm: half-thickness of the falx.
        calcified_pineal: whether the pineal gland is calcified.
        calcified_choroid: whether the choroid plexus is calcified.
        dura_hu: density of falx and tentorium.
        sinus_hu: density of the sagittal sinus.
        calcified_falx: (y, z) in mm of the middle of a calcified patch, or None.
        infarct: an old one, or None.
        hardening_hu: how much denser the brain reads at the inner table than deep inside, because
            the beam's hardening in bone is corrected as if it were water (Brooks & Di Chiro, Phys
            Med Biol 1976;21:390-398).
        hardening_mm: distance from the bone over which that falls to 1/e.
        hardening_unevenness: its deviation from place to place, relative.
        cupping_hu: added to all of the brain; below 0 where the inside of the head reads too low.
        plexus_scale: size of a calcified choroid plexus, relative.
    """

    sulcus_mm: float
    sulcus_depth_mm: float
    subdural_gap_mm: float
    ventricle_mm: float
    asymmetry_mm: float
    falx_mm: float
    calcified_pineal: bool
    calcified_choroid: bool
    dura_hu: float = hounsfield.DURA_HU
    sinus_hu: float = hounsfield.VENOUS_SINUS_HU
    calcified_falx: tuple[float, float] | None = None
    infarct: Infarct | None = None
    hardening_hu: float = 5.0
    hardening_mm: float = 7.0
    hardening_unevenness: float = 0.0
    cupping_hu: float = 0.0
    plexus_scale: float = 1.0


def draw_cerebrum(rng: np.random.Generator, age_years: float) -> Cerebrum:
    """Draws a brain of an age; sulci and ventricles widen with it."""
    atrophy = float(np.clip((age_years - 45.0) / 45.0 + rng.normal(0.0, 0.2), -0.3, 1.2))
    return Cerebrum(
        sulcus_mm=0.75 + 0.2 * atrophy + 0.6 * max(atrophy, 0.0),
        sulcus_depth_mm=float(rng.uniform(13.0, 18.0)),
        subdural_gap_mm=0.9 + 1.5 * max(atrophy, 0.0),
        ventricle_mm=float(rng.normal(-0.6 + 2.6 * atrophy, 0.5)),
        asymmetry_mm=float(rng.normal(0.0, 0.8)),
        falx_mm=float(rng.uniform(0.6, 1.1)),
        calcified_pineal=bool(rng.random() < 0.012 * age_years),
        calcified_choroid=bool(rng.random() < 0.009 * age_years),
    )


def vary_cerebrum(rng: np.random.Generator, cerebrum: Cerebrum) -> Cerebrum:
    """Adds what may be taken for blood or hide it: dense rims, membranes, calcium, infarcts."""
    infarct = None
    if rng.random() < 0.25:
        side = float(rng.choice((-1.0, 1.0)))
        middle = (side * rng.uniform(25.0, 55.0), rng.uniform(-55.0, 45.0), rng.uniform(-5.0, 45.0))
        semi_axes_mm = (rng.uniform(8.0, 22.0), rng.uniform(8.0, 28.0), rng.uniform(8.0, 22.0))
        infarct = Infarct(middle, semi_axes_mm, float(rng.uniform(*hounsfield.INFARCT_HU)))
    patch = (float(rng.uniform(10.0, 60.0)), float(rng.uniform(10.0, 50.0)))
    return dataclasses.replace(
        cerebrum,
        dura_hu=float(rng.uniform(*hounsfield.VARIED_DURA_HU)),
        sinus_hu=float(rng.uniform(*hounsfield.VARIED_SINUS_HU)),
        calcified_falx=patch if rng.random() < 0.25 else None,
        calcified_choroid=bool(rng.random() < 0.6),
        calcified_pineal=bool(rng.random() < 0.6),
        infarct=infarct,
        subdural_gap_mm=float(cerebrum.subdural_gap_mm * rng.uniform(0.0, 1.0)),
        hardening_hu=float(rng.uniform(*hounsfield.VARIED_HARDENING_HU)),
        hardening_mm=float(rng.uniform(8.0, 20.0)),
        hardening_unevenness=0.35,
        cupping_hu=float(rng.uniform(*hounsfield.VARIED_CUPPING_HU)),
        plexus_scale=float(rng.uniform(0.8, 2.0)),
    )
