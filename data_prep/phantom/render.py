"""From fields to a scan: tissues at full resolution, partial volume, blur, noise, table."""

import dataclasses

import numpy as np
import numpy.typing as npt
import scipy.ndimage

from data_prep.phantom import hounsfield, shapes
from data_prep.phantom.bleeds import DISTENSION_MM, Bleeds
from data_prep.phantom.brain import Brain, Cerebrum, csf_spaces, infratentorial, tentorium_height
from data_prep.phantom.plan import EDH, IPH, IVH, SAH, SDH
from data_prep.phantom.scan import SLAB_MM, Scan
from data_prep.phantom.shapes import FloatArray, coverage
from data_prep.phantom.skull import Skull

SUBSLICES = 3
LABELLED_SHARE = 0.4
"""A voxel is labelled where blood fills at least this share of it."""

TISSUES = ("air", "soft tissue", "bone", "CSF", "brain", "ventricle")
AIR, SOFT_TISSUE, BONE, CSF, BRAIN, VENTRICLE = range(len(TISSUES))


@dataclasses.dataclass(frozen=True)
class Rendering:
    """A scan as arrays (k, row, col): HU before noise, label values, tissue without blood."""

    hu: FloatArray
    label: npt.NDArray[np.uint8]
    tissue: npt.NDArray[np.uint8]


def render(
    scan: Scan,
    grid_axes_mm: tuple[FloatArray, FloatArray, FloatArray],
    skull: Skull,
    brain: Brain,
    bleeds: Bleeds,
    cerebrum: Cerebrum,
) -> Rendering:
    """Samples every slice as the mean of `SUBSLICES` thin ones."""
    rows = _span(scan.y_mm, grid_axes_mm[1])
    cols = _span(scan.x_mm, grid_axes_mm[2])
    resample = shapes.Resampler(grid_axes_mm, scan.y_mm[rows], scan.x_mm[cols])
    names = [*skull._fields, *brain._fields]
    stack = np.stack([*skull, *brain, *bleeds.fields.values()])
    split, brain_end = len(skull._fields), len(names)
    shape = (scan.num_slices, scan.size, scan.size)
    hu = np.full(shape, hounsfield.AIR_HU, np.float32)
    label = np.zeros(shape, np.uint8)
    tissue = np.zeros(shape, np.uint8)
    slab_mm = min(scan.spacing_mm, SLAB_MM)
    offsets = ((np.arange(SUBSLICES) + 0.5) / SUBSLICES - 0.5) * slab_mm
    for k, z_mm in enumerate(scan.z_mm):
        thin = []
        for offset in offsets:
            planes = resample(stack, float(z_mm + offset))
            thin.append(
                _compose(
                    Skull(*planes[:split]),
                    Brain(*planes[split:brain_end]),
                    dict(zip(bleeds.fields, planes[brain_end:], strict=True)),
                    bleeds,
                    cerebrum,
                    scan.pixel_mm,
                )
            )
        hu[k, rows, cols] = np.mean([one[0] for one in thin], axis=0)
        label[k, rows, cols] = _label([one[1] for one in thin])
        tissue[k, rows, cols] = thin[SUBSLICES // 2][2]
    return Rendering(hu, label, tissue)


def _span(fine_mm: FloatArray, grid_mm: FloatArray) -> slice:
    inside = np.flatnonzero((fine_mm <= grid_mm.max()) & (fine_mm >= grid_mm.min()))
    return slice(int(inside[0]), int(inside[-1]) + 1)


def _label(filled: list[dict[int, FloatArray]]) -> npt.NDArray[np.uint8]:
    values = list(filled[0])
    if not values:
        return np.zeros(1, np.uint8)
    shares = np.stack([np.mean([one[value] for one in filled], axis=0) for value in values])
    most = np.asarray(values, np.uint8)[shares.argmax(axis=0)]
    return np.where(shares.sum(axis=0) >= LABELLED_SHARE, most, 0).astype(np.uint8)


def _compose(
    skull: Skull,
    brain: Brain,
    borders: dict[int, FloatArray],
    bleeds: Bleeds,
    cerebrum: Cerebrum,
    pixel_mm: float,
) -> tuple[FloatArray, dict[int, FloatArray], npt.NDArray[np.uint8]]:
    """One thin slice: HU, the share of each kind of blood, and the tissue without it."""
    head = coverage(skull.skin, pixel_mm)
    cavity = coverage(skull.cavity, pixel_mm)
    hu = _outside_brain(skull, brain.tone, head, pixel_mm)

    spaces = csf_spaces(brain, cerebrum)
    below = infratentorial(brain.x, brain.y, brain.z)
    in_ventricle = coverage(brain.ventricle, pixel_mm)
    solid = coverage(-spaces, pixel_mm) * (1.0 - in_ventricle)
    inside_hu = _brain_hu(brain, spaces, below, cerebrum, pixel_mm)
    inside_hu = hounsfield.CSF_HU + solid * (inside_hu - hounsfield.CSF_HU)
    inside_hu = _membranes(inside_hu, skull, brain, below, cerebrum, pixel_mm)

    filled = _blood_shares(skull, brain, borders, spaces, pixel_mm)
    if IPH in borders:
        rim = coverage(borders[IPH] + np.float32(bleeds.oedema_mm), 5.0) * solid
        inside_hu = inside_hu + 0.8 * rim * np.minimum(hounsfield.OEDEMA_HU - inside_hu, 0.0)
    for value, share in filled.items():
        blood_hu = np.float32(bleeds.hu[value]) + np.float32(3.0) * brain.tone
        inside_hu = inside_hu + share * (blood_hu - inside_hu)
    hu = hu + cavity * (inside_hu - hu)

    tissue = np.where(skull.skin > 0.0, SOFT_TISSUE, AIR)
    tissue = np.where(_bone(skull) > 0.0, BONE, tissue)
    within = np.where(brain.ventricle > 0.0, VENTRICLE, np.where(spaces > 0.0, CSF, BRAIN))
    tissue = np.where(skull.cavity > 0.0, within, tissue).astype(np.uint8)
    return hu, {value: share * cavity for value, share in filled.items()}, tissue


def _bone(skull: Skull) -> FloatArray:
    wall = np.minimum(skull.cavity + skull.bone_mm, -skull.cavity)
    return np.minimum(np.maximum(wall, skull.base_bone), skull.skin - np.float32(2.0))


def _outside_brain(skull: Skull, tone: FloatArray, head: FloatArray, pixel_mm: float) -> FloatArray:
    below_skin = coverage(skull.skin - np.float32(1.8), pixel_mm)
    muscle = coverage(tone + np.float32(0.2) * (skull.skin - np.float32(7.0)), 0.8)
    soft = hounsfield.FAT_HU + muscle * (hounsfield.MUSCLE_HU - hounsfield.FAT_HU)
    hu = hounsfield.SKIN_HU + below_skin * (soft - hounsfield.SKIN_HU)
    hu = hu + coverage(skull.orbit, pixel_mm) * (hounsfield.FAT_HU - hu)
    hu = hu + coverage(skull.globe, pixel_mm) * (hounsfield.VITREOUS_HU - hu)
    bone = _bone(skull)
    wall = np.minimum(skull.cavity + skull.bone_mm, -skull.cavity)
    diploe = coverage(wall - np.float32(1.7), 1.0)
    bone_hu = hounsfield.CORTICAL_BONE_HU + diploe * (
        hounsfield.DIPLOE_HU + 80.0 * tone - hounsfield.CORTICAL_BONE_HU
    )
    cells = coverage(skull.mastoid, pixel_mm) * coverage(tone, 0.5)
    bone_hu = bone_hu + cells * (hounsfield.MASTOID_AIR_CELLS_HU - bone_hu)
    hu = hu + coverage(bone, pixel_mm) * (bone_hu - hu)
    hu = hu + coverage(skull.air, pixel_mm) * (hounsfield.AIR_HU - hu)
    return hounsfield.AIR_HU + head * (hu - hounsfield.AIR_HU)


def _brain_hu(
    brain: Brain, spaces: FloatArray, below: FloatArray, cerebrum: Cerebrum, pixel_mm: float
) -> FloatArray:
    """Grey and white matter: a cortical ribbon of 3 mm along all CSF, nuclei, cerebellum."""
    ribbon = coverage(spaces + np.float32(3.2), max(pixel_mm, 1.5))
    grey = np.maximum(ribbon, coverage(brain.nuclei, 2.5) * np.float32(0.85))
    cerebellum = coverage(np.minimum(below, -brain.brainstem), 2.0)
    radius = np.sqrt(brain.y**2 + brain.z**2 + brain.x**2)
    folia = np.float32(0.55) + np.float32(0.25) * np.sin(radius * np.float32(2.0 * np.pi / 5.0))
    grey = grey + cerebellum * (folia - grey)
    grey = grey + coverage(brain.brainstem, 3.0) * (np.float32(0.35) - grey)
    white = np.float32(hounsfield.WHITE_MATTER_HU) + np.float32(0.7) * brain.tone
    return white + grey * (hounsfield.GREY_MATTER_HU - white)


def _membranes(
    hu: FloatArray,
    skull: Skull,
    brain: Brain,
    below: FloatArray,
    cerebrum: Cerebrum,
    pixel_mm: float,
) -> FloatArray:
    """Falx, tentorium, venous sinuses, calcified pineal gland and choroid plexus."""
    x, y, z = brain.x, brain.y, brain.z
    lateral = np.abs(x)
    arch = (((y + 4.0) / 58.0) ** 2 + ((z - 6.0) / 36.0) ** 2 - 1.0) * 16.0
    falx = np.minimum(np.float32(cerebrum.falx_mm) - lateral, np.minimum(arch, 2.0 - below))
    notch = (np.sqrt((x / 1.1) ** 2 + (y + 14.0) ** 2) - 24.0).astype(np.float32)
    sheet = np.float32(0.8) - np.abs(z - tentorium_height(x, y))
    tentorium = np.minimum(np.minimum(sheet, notch), np.float32(-8.0) - y)
    around = np.minimum(np.minimum(sheet + 1.2, notch), np.float32(-8.0) - y)
    hu = hu + coverage(around, pixel_mm) * (hounsfield.CSF_HU - hu) * np.float32(0.6)
    hu = hu + coverage(np.maximum(falx, tentorium), pixel_mm) * (hounsfield.DURA_HU - hu)
    groove = np.minimum(5.5 - lateral - 0.6 * skull.cavity, skull.cavity + 1.0)
    sagittal_sinus = np.minimum(groove, np.maximum(z - 30.0, -40.0 - y))
    sagittal_sinus = np.minimum(sagittal_sinus, 2.0 - below)
    hu = hu + coverage(sagittal_sinus, pixel_mm) * (hounsfield.VENOUS_SINUS_HU - hu)
    if cerebrum.calcified_pineal:
        pineal = shapes.ellipsoid(x, y, z, (0.0, -24.0, 0.0), (2.2, 2.6, 2.4))
        hu = hu + coverage(pineal, pixel_mm) * (hounsfield.CALCIFICATION_HU - hu)
    if cerebrum.calcified_choroid:
        plexus = shapes.ellipsoid(lateral, y, z, (24.5, -33.0, 5.0), (1.8, 3.2, 3.0))
        hu = hu + coverage(plexus, pixel_mm) * (hounsfield.CALCIFICATION_HU - hu)
    return hu


def _blood_shares(
    skull: Skull,
    brain: Brain,
    borders: dict[int, FloatArray],
    spaces: FloatArray,
    pixel_mm: float,
) -> dict[int, FloatArray]:
    """Share of each kind of blood, in the order in which one hides another."""
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


def add_scanner(rng: np.random.Generator, scan: Scan, hu: FloatArray) -> npt.NDArray[np.int16]:
    """Blur, beam hardening, head-rest, noise and the 12-bit range: (k, row, col) int16 HU."""
    blur_px = 0.42 / scan.pixel_mm
    image = np.maximum(hu, _table(rng, scan))
    image = scipy.ndimage.gaussian_filter(image, (0.0, blur_px, blur_px), truncate=3.0)
    noise_hu = float(rng.uniform(3.0, 5.5))
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    # Filtered back-projection's noise has little power at low frequencies (ramp) and at the
    # highest (soft kernel): a difference of two Gaussians. Kijewski & Judy, PMB 1987;32:565.
    fine = scipy.ndimage.gaussian_filter(noise, (0.0, 1.1 * blur_px, 1.1 * blur_px), truncate=2.5)
    fine -= scipy.ndimage.uniform_filter(fine, (0, 7, 7))
    image += fine * np.float32(noise_hu / fine.std())
    return np.rint(image).clip(hounsfield.LOWEST_HU, hounsfield.HIGHEST_HU).astype(np.int16)


def _table(rng: np.random.Generator, scan: Scan) -> FloatArray:
    """The head-rest, the same in all slices: a shell of foam in an arc behind the head."""
    y, x = scan.y_mm[:, None], scan.x_mm[None, :]
    radius_mm = float(rng.uniform(115.0, 150.0))
    depth_mm = float(scan.offset_mm[1] - rng.uniform(106.0, 112.0))
    half_angle = float(rng.uniform(0.5, 0.9))
    from_middle = np.hypot(x - scan.offset_mm[0], y - (depth_mm + radius_mm))
    angle = np.abs(np.arctan2(x - scan.offset_mm[0], depth_mm + radius_mm - y))
    ends = np.float32(half_angle) - angle
    shell = np.minimum(1.2 - np.abs(from_middle - radius_mm), ends * radius_mm)
    foam = np.minimum(9.0 - np.abs(from_middle - radius_mm - 10.0), ends * radius_mm)
    hu = hounsfield.AIR_HU + coverage(foam.astype(np.float32), scan.pixel_mm) * (
        hounsfield.TABLE_FOAM_HU - hounsfield.AIR_HU
    )
    hu = hu + coverage(shell.astype(np.float32), scan.pixel_mm) * (hounsfield.TABLE_SHELL_HU - hu)
    return hu.astype(np.float32)
