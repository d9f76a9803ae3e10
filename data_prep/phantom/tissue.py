"""Tissue at one thin slice's pixels: HU, blood and the tissue without it, from the fields there."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.phantom import hounsfield, shapes
from data_prep.phantom.anatomy import Anatomy
from data_prep.phantom.bleeds import DISTENSION_MM, Bleeds, Layers
from data_prep.phantom.brain import (
    Brain,
    csf_spaces,
    falx_arch,
    infratentorial,
    tentorium_height,
)
from data_prep.phantom.plan import EDH, IPH, IVH, SAH, SDH
from data_prep.phantom.shapes import FloatArray, coverage
from data_prep.phantom.skull import Face, Skull
from data_prep.phantom.wound import Wound

TISSUES = ("air", "soft tissue", "bone", "CSF", "brain", "ventricle")
AIR, SOFT_TISSUE, BONE, CSF, BRAIN, VENTRICLE = range(len(TISSUES))

CORTEX_MM = 3.2
MEMBRANE_MM = 2.0
"""Thickness of the denser rim of subdural blood that has layers."""


class ThinSlice(NamedTuple):
    """One thin slice, (R, C) each: HU, share of each kind of blood, and index into `TISSUES`."""

    hu: FloatArray
    blood: dict[int, FloatArray]
    tissue: npt.NDArray[np.uint8]


def compose(
    anatomy: Anatomy,
    borders: dict[int, FloatArray],
    bleeds: Bleeds,
    pixel_mm: float,
    y_mm: FloatArray,
) -> ThinSlice:
    """Fills a thin slice's pixels; each surface crosses pixels with its partial volume.

    Args:
        anatomy: fields at the pixels.
        borders: `bleeds.borders` at the pixels.
        bleeds: densities.
        pixel_mm: width of a pixel.
        y_mm: of each row, (R,), in the scan frame; blood sinks towards low values.
    """
    skull, face, brain, cerebrum, wound = anatomy
    bone = _bone(skull, face, wound)
    hu = _outside_brain(anatomy, bone, pixel_mm)

    spaces = csf_spaces(brain, cerebrum)
    solid = coverage(-spaces, pixel_mm) * (1.0 - coverage(brain.ventricle, pixel_mm))
    inside = _parenchyma_hu(brain, spaces, pixel_mm) - np.float32(hounsfield.CSF_HU)
    inside = np.float32(hounsfield.CSF_HU) + solid * inside
    if cerebrum.infarct is not None:
        middle, semi_axes_mm, infarct_hu = cerebrum.infarct
        border = shapes.ellipsoid(brain.points, middle, semi_axes_mm)
        border = border + np.float32(4.0) * brain.tone
        inside = _mix(inside, infarct_hu, solid * coverage(border, 3.0))
    inside = _add_membranes(inside, anatomy, pixel_mm)
    if IPH in borders:
        rim = coverage(borders[IPH] + np.float32(bleeds.oedema_mm), 4.0) * solid
        inside = inside + rim * np.minimum(np.float32(hounsfield.OEDEMA_HU) - inside, 0.0)
    blood = _blood_shares(brain, borders, spaces, pixel_mm)
    for value, share in blood.items():
        blood_hu = np.float32(bleeds.mottle_hu) * brain.tone + np.float32(bleeds.hu[value])
        if value == SDH and bleeds.layers is not None:
            layers = layers_hu(bleeds.layers, y_mm[:, None], borders[SDH], skull.cavity)
            blood_hu = blood_hu + layers
        inside = _mix(inside, blood_hu, share)
    below_bone = np.maximum(skull.cavity, np.float32(0.0)) / np.float32(cerebrum.hardening_mm)
    hardening: FloatArray = np.exp(-below_bone)
    if wound is not None:
        # Beneath an opening no bone hardens the beam.
        hardening = hardening * coverage(-wound.opening(skull), 8.0)
    uneven = np.float32(1.0) + np.float32(cerebrum.hardening_unevenness) * brain.tone
    inside = inside + np.float32(cerebrum.hardening_hu) * hardening * np.maximum(uneven, 0.0)
    inside = inside + np.float32(cerebrum.cupping_hu)

    cavity = coverage(skull.cavity, pixel_mm)
    within = np.where(brain.ventricle > 0.0, VENTRICLE, np.where(spaces > 0.0, CSF, BRAIN))
    without = np.where(bone > 0.0, BONE, np.where(skull.skin > 0.0, SOFT_TISSUE, AIR))
    return ThinSlice(
        hu=_mix(hu, inside, cavity),
        blood={value: share * cavity for value, share in blood.items()},
        tissue=np.where(skull.cavity > 0.0, within, without).astype(np.uint8),
    )


def layers_hu(
    layers: Layers, y_mm: FloatArray, border: FloatArray, cavity: FloatArray
) -> FloatArray:
    """What layers add to the density of subdural blood.

    Args:
        layers: what they are like.
        y_mm: of each point, in the scan frame.
        border: signed distance in mm to the blood's border, positive inside.
        cavity: distance in mm from the bone. The border at the bone has no membrane.
    """
    border = np.maximum(border, np.float32(2.0 * MEMBRANE_MM) - cavity)
    depth = np.tanh((np.float32(layers.level_mm) - y_mm) / np.float32(12.0))
    membrane = coverage(np.float32(MEMBRANE_MM) - border, 1.0)
    return np.float32(layers.sediment_hu) * depth + np.float32(layers.membrane_hu) * membrane


def _mix(hu: FloatArray, other: FloatArray | float, share: FloatArray) -> FloatArray:
    return hu + share * (other - hu)


def _bone(skull: Skull, face: Face | None, wound: Wound | None) -> FloatArray:
    bone = _calvarium(skull)
    if wound is not None:
        bone = np.minimum(bone, -wound.opening(skull))
    if face is not None:
        bone = np.maximum(bone, face.bone)
    return np.minimum(bone, skull.skin - np.float32(2.0))


def _calvarium(skull: Skull) -> FloatArray:
    return np.minimum(skull.cavity + skull.bone_mm, -skull.cavity)


def _outside_brain(anatomy: Anatomy, bone: FloatArray, pixel_mm: float) -> FloatArray:
    # Below the skin lies fat; muscle is deeper and only on the lower half of the head.
    skull, face, brain, _, wound = anatomy
    tone = brain.tone
    muscle = np.float32(0.15) * (np.minimum(skull.skin, 12.0) - np.float32(5.0)) + tone
    muscle = muscle - np.float32(0.03) * np.maximum(brain.z + np.float32(5.0), -20.0)
    muscle = coverage(muscle, 0.8)
    fat = np.full_like(tone, hounsfield.FAT_HU)
    soft = _mix(fat, hounsfield.MUSCLE_HU, muscle)
    if wound is not None:
        fluid = np.float32(12.0) * tone + np.float32(wound.fluid_hu)
        soft = _mix(soft, fluid, coverage(wound.swollen(skull), 2.0))
    skin = np.full_like(tone, hounsfield.SKIN_HU)
    hu = _mix(skin, soft, coverage(skull.skin - np.float32(2.0), pixel_mm))
    marrow = np.float32(80.0) * tone + np.float32(hounsfield.DIPLOE_HU)
    cortical = np.full_like(tone, hounsfield.CORTICAL_BONE_HU)
    bone_hu = _mix(cortical, marrow, coverage(_calvarium(skull) - np.float32(1.7), 1.0))
    if face is not None:
        orbit = _mix(fat, hounsfield.SCLERA_HU, coverage(face.globe, pixel_mm))
        orbit = _mix(
            orbit, hounsfield.VITREOUS_HU, coverage(face.globe - np.float32(1.2), pixel_mm)
        )
        orbit = _mix(orbit, hounsfield.LENS_HU, coverage(face.lens, pixel_mm))
        hu = _mix(hu, orbit, coverage(np.maximum(face.orbit, face.globe), pixel_mm))
        cells = coverage(face.mastoid, pixel_mm) * coverage(tone, 0.5)
        bone_hu = _mix(bone_hu, hounsfield.MASTOID_AIR_CELLS_HU, cells)
    hu = _mix(hu, bone_hu, coverage(bone, pixel_mm))
    if face is not None:
        hu = _mix(hu, hounsfield.AIR_HU, coverage(face.air, pixel_mm))
    air = np.full_like(tone, hounsfield.AIR_HU)
    return _mix(air, hu, coverage(skull.skin, pixel_mm))


def _parenchyma_hu(brain: Brain, spaces: FloatArray, pixel_mm: float) -> FloatArray:
    """Grey matter as a ribbon along all CSF and in nuclei; the cerebellum's folia; white matter."""
    ribbon = coverage(spaces + np.float32(CORTEX_MM), max(pixel_mm, 1.5))
    grey = np.maximum(ribbon, np.float32(0.8) * coverage(brain.nuclei, 3.0))
    cerebellum = np.minimum(infratentorial(brain.points), -brain.brainstem)
    layer = brain.points.radius() + np.float32(1.5) * brain.tone
    folia: FloatArray = np.sin(layer * np.float32(2.0 * np.pi / 5.0))
    folia = np.float32(0.55) + np.float32(0.3) * folia
    grey = _mix(grey, folia, coverage(cerebellum, 2.0))
    grey = _mix(grey, 0.35, coverage(brain.brainstem, 3.0))
    white = np.float32(hounsfield.WHITE_MATTER_HU) + np.float32(0.7) * brain.tone
    return _mix(white, hounsfield.GREY_MATTER_HU, grey)


def _add_membranes(hu: FloatArray, anatomy: Anatomy, pixel_mm: float) -> FloatArray:
    """Falx, tentorium, sagittal sinus, calcified pineal gland and choroid plexus."""
    brain, cerebrum = anatomy.brain, anatomy.cerebrum
    x, y, z = brain.points
    lateral = np.abs(x)
    arch = falx_arch(brain.points)
    notch = np.sqrt((x / np.float32(1.1)) ** 2 + (y + np.float32(14.0)) ** 2) - np.float32(24.0)
    spanned = np.minimum(notch, np.float32(-8.0) - y)
    sheet = np.float32(0.8) - np.abs(z - tentorium_height(brain.points))
    beside = np.minimum(sheet + np.float32(1.2), spanned)
    hu = _mix(hu, hounsfield.CSF_HU, np.float32(0.6) * coverage(beside, pixel_mm))
    falx = np.minimum(np.float32(cerebrum.falx_mm) - lateral, arch)
    dura = np.maximum(falx, np.minimum(sheet, spanned))
    hu = _mix(hu, cerebrum.dura_hu, coverage(dura, pixel_mm))
    groove = np.float32(5.5) - lateral - np.float32(0.6) * anatomy.skull.cavity
    along = np.maximum(z - np.float32(30.0), np.float32(-40.0) - y)
    sinus = np.minimum.reduce([groove, along, arch])
    hu = _mix(hu, cerebrum.sinus_hu, coverage(sinus, pixel_mm))
    if cerebrum.calcified_falx is not None:
        on_falx = shapes.ellipsoid(brain.points, (0.0, *cerebrum.calcified_falx), (1.6, 7.0, 5.0))
        on_falx = np.minimum(on_falx, arch)
        hu = _mix(hu, hounsfield.CALCIFICATION_HU, coverage(on_falx, pixel_mm))
    if cerebrum.calcified_pineal:
        pineal = shapes.ellipsoid(brain.points, (0.0, -24.0, 0.0), (2.2, 2.6, 2.4))
        hu = _mix(hu, hounsfield.CALCIFICATION_HU, coverage(pineal, pixel_mm))
    if cerebrum.calcified_choroid:
        scale = cerebrum.plexus_scale
        semi_axes_mm = (1.8 * scale, 3.2 * scale, 3.0 * scale)
        plexus = shapes.ellipsoid(brain.points.mirrored(), (24.5, -33.0, 5.0), semi_axes_mm)
        hu = _mix(hu, hounsfield.CALCIFICATION_HU, coverage(plexus, pixel_mm))
    return hu


def _blood_shares(
    brain: Brain, borders: dict[int, FloatArray], spaces: FloatArray, pixel_mm: float
) -> dict[int, FloatArray]:
    """Share of each kind of blood; where two meet, the first in this order hides the other."""
    shares: dict[int, FloatArray] = {}
    free = np.ones_like(spaces)
    for value in (EDH, SDH, IPH, IVH, SAH):
        if value not in borders:
            continue
        border = borders[value]
        if value == IVH:
            border = np.minimum(border, brain.ventricle)
        elif value == SAH:
            border = np.minimum(border, spaces + np.float32(DISTENSION_MM))
            border = np.minimum(border, -brain.ventricle)
        shares[value] = coverage(border, pixel_mm) * free
        free = free - shares[value]
    return shares
