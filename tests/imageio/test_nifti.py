import ast
import csv
import gzip
import io
import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from tiny_ct import LAS_AFFINE, nifti_bytes

from mbh_jax.data.schema import count_pixels_per_class
from mbh_jax.errors import UserError
from mbh_jax.imageio.nifti import (
    read_header,
    read_label,
    read_label_like,
    read_volume,
    write_label,
)
from mbh_jax.imageio.volume import (
    Volume,
    affine_distance_mm,
    affine_spacing_mm,
    voxel_volume_ml,
)

FACTS = Path(__file__).parents[2].parent / "shared" / "bhsd_facts" / "label_headers.csv"
RNG = np.random.default_rng(0)
HU = RNG.integers(-1024, 3000, (4, 5, 6)).astype(np.int16)
"""(slices, rows, columns): all sizes and values differ, so that no wrong turn goes unnoticed."""
PROGRAM_AFFINE = np.array(
    [[-0.4, 0.01, 0.2, 50.0], [0.01, -0.5, 0.3, 60.0], [0.0, 0.1, 5.0, -30.0], [0, 0, 0, 1]]
)
"""Column to patient left (-x), row to posterior (-y), slice to superior (+z), oblique."""
ORIENTATIONS = [
    (order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


def store(order: tuple[int, ...], flips: tuple[bool, ...]) -> tuple[np.ndarray, np.ndarray]:
    """`HU` on other axes: stored axis n is program axis `order[n]` of (column, row, slice)."""
    stored = HU.transpose(2, 1, 0).transpose(order)
    affine = np.eye(4)
    affine[:3, 3] = PROGRAM_AFFINE[:3, 3]
    for axis, (source_axis, flip) in enumerate(zip(order, flips, strict=True)):
        step = PROGRAM_AFFINE[:3, source_axis]
        if flip:
            stored = np.flip(stored, axis)
            affine[:3, 3] += step * (stored.shape[axis] - 1)
            step = -step
        affine[:3, axis] = step
    return stored, affine


def read(content: bytes, name: str = "case") -> Volume:
    return read_volume(io.BytesIO(content), name)


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_every_stored_orientation_reads_the_same_and_is_written_back(tmp_path, order, flips):
    stored, affine = store(order, flips)
    path = tmp_path / "volume.nii.gz"
    nibabel.save(nibabel.Nifti1Image(stored, affine), path)

    volume = read_volume(path)
    np.testing.assert_array_equal(volume.hu, HU)
    np.testing.assert_allclose(volume.affine, PROGRAM_AFFINE, atol=1e-5)

    label = (volume.hu % 6).astype(np.uint8)
    write_label(tmp_path / "label.nii.gz", label, volume)
    written = nibabel.Nifti1Image.from_filename(tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), stored % 6)
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)
    assert written.get_data_dtype() == np.uint8

    again, header = read_label(tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(again, label)
    assert header.axcodes == volume.stored_axcodes


def test_bhsd_orientation_is_the_stored_slices_turned_90_degrees_counter_clockwise():
    stored = RNG.integers(-1024, 3000, (6, 7, 3)).astype(np.int16)
    volume = read(nifti_bytes(stored))
    assert volume.stored_axcodes == "LAS"
    for k in range(stored.shape[2]):
        np.testing.assert_array_equal(volume.hu[k], np.rot90(stored[:, :, k]))
    np.testing.assert_allclose(volume.spacing_mm, [0.5, 0.5, 5.0], rtol=1e-6)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_versions_byte_orders_types_and_compression(version, byte_order, dtype, compress):
    stored = RNG.integers(0, 2000, (4, 5, 3)).astype(dtype)
    content = nifti_bytes(stored, version=version, byte_order=byte_order)
    volume = read(compress(content))
    assert volume.hu.dtype == np.int16
    np.testing.assert_array_equal(volume.hu, np.rot90(stored).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [((np.nan, np.nan), 100), ((0.0, -1024.0), 100), ((1.0, -1024.0), -924), ((0.504, 0.2), 51)],
)
def test_scaling(scaling, expected):
    stored = np.full((2, 3, 4), 100, np.int16)
    assert (read(nifti_bytes(stored, scaling=scaling)).hu == expected).all()


@pytest.mark.skipif(not FACTS.exists(), reason="the list of BHSD's real headers is not available")
def test_all_real_headers_are_understood():
    with FACTS.open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 192
    for row in rows:
        fields: dict[str, Any] = {
            name: np.array(ast.literal_eval(row[name]))
            for name in ("dim", "pixdim", "srow_x", "srow_y", "srow_z")
        }
        for name in ("b", "c", "d"):
            fields[f"quatern_{name}"] = np.float32(row[f"quatern_{name}"])
        for name in ("x", "y", "z"):
            fields[f"qoffset_{name}"] = np.float32(row[f"qoffset_{name}"])
        for name in ("datatype", "bitpix", "qform_code", "sform_code", "xyzt_units"):
            fields[name] = np.int64(row[name])
        fields |= {"scl_slope": np.nan, "scl_inter": np.nan}
        header = read_header(io.BytesIO(header_with(**fields)), row["filename"])
        assert header.axcodes == "LAS"
        np.testing.assert_array_equal(header.shape, fields["dim"][1:4])
        spacing_mm = affine_spacing_mm(header.affine)
        np.testing.assert_allclose(spacing_mm, fields["pixdim"][1:4], rtol=1e-5)


def test_a_fourth_axis_of_one_is_dropped():
    stored = RNG.integers(0, 99, (4, 5, 3, 1)).astype(np.int16)
    volume = read(nifti_bytes(stored))
    np.testing.assert_array_equal(volume.hu, np.rot90(stored[..., 0]).transpose(2, 0, 1))


def test_header_alone():
    header = read_header(io.BytesIO(nifti_bytes(np.zeros((4, 5, 3), np.int16))))
    assert header.shape == (4, 5, 3)
    assert header.axcodes == "LAS"
    np.testing.assert_allclose(header.affine, LAS_AFFINE, atol=1e-5)


def test_sform_goes_before_qform_and_a_broken_sform_is_passed_over():
    stored = np.zeros((2, 2, 2), np.int16)
    image = nibabel.Nifti1Image(stored, None)
    image.header.set_qform(LAS_AFFINE, code=1)
    image.header.set_sform(np.diag([2.0, 2, 2, 1]), code=1)
    assert read_header(io.BytesIO(image.to_bytes())).axcodes == "RAS"
    image.header["srow_x"] = 0
    assert read_header(io.BytesIO(image.to_bytes())).axcodes == "LAS"


def test_a_label_is_read_on_its_images_grid():
    stored = RNG.integers(0, 6, (4, 5, 3)).astype(np.uint16)
    image = read_header(io.BytesIO(nifti_bytes(np.zeros((4, 5, 3), np.int16))))
    expected = np.rot90(stored).transpose(2, 0, 1)
    # Of the same axes: voxel by voxel, whatever the affine, as four volumes of BHSD need it.
    moved = LAS_AFFINE.copy()
    moved[2, 3] += 7
    label, (note,) = read_label_like(io.BytesIO(nifti_bytes(stored, moved)), image)
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, expected)
    assert "differ by up to 7.0 mm on the same grid (LAS and LAS)" in note
    # In the same space on other axes: i turned, and j and k exchanged.
    other = LAS_AFFINE @ [[-1, 0, 0, 3], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    on_other = nifti_bytes(stored[::-1].transpose(0, 2, 1), other, qform_only=False)
    label, (note,) = read_label_like(io.BytesIO(on_other), image)
    np.testing.assert_array_equal(label, expected)
    assert note == "image stored as LAS, label as RSA: each is turned by its own affine"
    # Nearly halfway between two axes, rounding may change the codes but not the place.
    codes = []
    for degrees in (44.99999, 45.00001):
        angle = np.deg2rad(degrees)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        halfway = turn @ np.diag([0.5, 0.5, 5.0, 1.0])
        content = nifti_bytes(np.zeros((4, 5, 3), np.int16), halfway, qform_only=False)
        codes.append(read_header(io.BytesIO(content)))
    assert codes[0].axcodes != codes[1].axcodes
    content = nifti_bytes(stored, halfway, qform_only=False)
    by_own, _ = read_label(io.BytesIO(content))
    for image_header in codes:
        label, notes = read_label_like(io.BytesIO(content), image_header)
        assert notes == ()
        assert np.array_equal(label, by_own) == (image_header.axcodes == codes[1].axcodes)
    # On other axes, and elsewhere.
    other[0, 3] += 1
    with pytest.raises(
        UserError, match=r"wrong: stored as RSA, its image as LAS, .* 1\.0 mm apart"
    ):
        on_other = nifti_bytes(stored[::-1].transpose(0, 2, 1), other, qform_only=False)
        read_label_like(io.BytesIO(on_other), image, "wrong")
    with pytest.raises(UserError, match=r"wrong: label of shape \(5, 4, 3\).*\(4, 5, 3\)"):
        transposed = io.BytesIO(nifti_bytes(stored.transpose(1, 0, 2)))
        read_label_like(transposed, image, "wrong")


def test_voxel_volume_counts_the_tilt():
    assert voxel_volume_ml(np.diag([-0.5, 0.5, 5.0, 1.0])) == pytest.approx(0.00125)
    sheared = np.diag([0.5, 0.5, 5.0, 1.0])
    sheared[1, 2] = 2.0  # Slices slide along y: base times height stays.
    assert voxel_volume_ml(sheared) == pytest.approx(0.5 * 0.5 * 5.0 / 1000)
    assert affine_spacing_mm(sheared)[2] == pytest.approx(np.hypot(5, 2))


def test_affine_distance_is_that_of_the_farthest_corner():
    moved, shape = LAS_AFFINE.copy(), (11, 5, 3)
    moved[0, 0] += 0.1
    assert affine_distance_mm(LAS_AFFINE, moved, shape) == pytest.approx(1.0)


def test_pixels_per_class():
    label = np.zeros((2, 3, 4), np.uint8)
    label[1, 0, :3] = 5
    np.testing.assert_array_equal(
        count_pixels_per_class(label), [[12, 0, 0, 0, 0, 0], [9, 0, 0, 0, 0, 3]]
    )


def test_a_mask_of_another_shape_is_refused(tmp_path):
    volume = read(nifti_bytes(np.zeros((4, 5, 3), np.int16)))
    with pytest.raises(ValueError, match="does not fit"):
        write_label(tmp_path / "mask.nii", np.zeros((3, 4, 5), np.uint8), volume)
    assert not list(tmp_path.iterdir())


GOOD = nifti_bytes(np.zeros((8, 8, 3), np.int16))
ZIPPED = gzip.compress(GOOD, mtime=0)
RGB = np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])


def header_with(**fields) -> bytes:
    header = nibabel.Nifti1Header(GOOD[:348])
    for field, value in fields.items():
        header[field] = value
    return header.binaryblock + GOOD[348:]


BAD = {
    "empty": (b"", "not a NIfTI file"),
    "text": (b"hello, this is no volume" * 40, "not a NIfTI file"),
    "magic of a pair": (header_with(magic=b"ni1"), "not a single-file NIfTI"),
    "truncated at the header": (GOOD[:200], "truncated in the header"),
    "truncated at the voxels": (GOOD[:-1], "truncated: 383 of 384 bytes"),
    "gzip truncated": (ZIPPED[:-20], "truncated or damaged"),
    "wrong checksum": (ZIPPED[:-8] + b"\0\0\0\0" + ZIPPED[-4:], "truncated or damaged .*CRC"),
    "damaged deflate": (ZIPPED[:12] + b"\xff" * 8 + ZIPPED[20:], "truncated or damaged"),
    "unknown type": (header_with(datatype=9999), "not a readable NIfTI volume"),
    "four dimensions": (
        nifti_bytes(np.zeros((4, 4, 3, 2), np.int16)),
        r"shape \(4, 4, 3, 2\): give one 3-D",
    ),
    "two dimensions": (nifti_bytes(np.zeros((4, 4), np.int16)), "give one 3-D"),
    "colours": (nifti_bytes(RGB), "not single numbers"),
    "no affine": (header_with(qform_code=0), "no usable geometry"),
    "no thickness": (header_with(pixdim=[1, 0.5, 0.5, 0, 1, 1, 1, 1]), "no usable geometry"),
    "thickness not a number": (
        header_with(pixdim=[1, 0.5, 0.5, np.nan, 1, 1, 1, 1]),
        "no usable geometry",
    ),
    "NaN voxels": (nifti_bytes(np.full((2, 2, 2), np.nan, np.float32)), "NaN or infinite voxels"),
    "infinite voxels": (
        nifti_bytes(np.full((2, 2, 2), np.inf, np.float32)),
        "NaN or infinite voxels",
    ),
    "voxels no HU": (
        nifti_bytes(np.full((2, 2, 2), 40000, np.int32)),
        "cannot be Hounsfield units",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_volumes_are_named_in_one_line(kind):
    content, message = BAD[kind]
    with pytest.raises(UserError, match=f"^bad.nii: .*{message}") as caught:
        read(content, "bad.nii")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (6, np.uint16, "label value 6: labels must be 0 to 5"),
        (-1, np.int16, "label value -1"),
        (1.5, np.float32, "not whole"),
        (np.nan, np.float32, "not whole"),
    ],
)
def test_bad_labels_are_named_in_one_line(value, dtype, message):
    stored = np.zeros((2, 3, 4), dtype)
    stored[1, 1, 1] = value
    with pytest.raises(UserError, match=f"^bad.nii: .*{message}"):
        read_label(io.BytesIO(nifti_bytes(stored)), "bad.nii")


def test_float_labels_may_be_whole_but_for_rounding():
    stored = np.full((2, 3, 4), 5, np.float32)
    stored[0] = 2.9995
    label, _ = read_label(io.BytesIO(nifti_bytes(stored)))
    assert np.unique(label).tolist() == [3, 5]
    # As nibabel stores a float64 label in a header of uint16.
    image = nibabel.Nifti1Image(np.arange(6.0).reshape(1, 2, 3), LAS_AFFINE)
    image.header.set_data_dtype(np.uint16)
    label, _ = read_label(io.BytesIO(image.to_bytes()))
    assert sorted(label.ravel().tolist()) == [0, 1, 2, 3, 4, 5]


SPACING = (0.5, 0.5, 5.0)


def qform_header(**fields):
    """A header with a qform only, which turns half around an axis in the plane of y and z."""
    quaternion = {"quatern_b": 0.0, "quatern_c": 0.08, "quatern_d": np.sqrt(1 - 0.08**2)}
    return header_with(**({"pixdim": [1, *SPACING, 0, 0, 0, 0]} | quaternion | fields))


def half_turn():
    """By the standard's matrix for (a, b, c, d) = (0, 0, c, d), times the spacing."""
    c, d = 0.08, np.sqrt(1 - 0.08**2)
    return np.array([[-1, 0, 0], [0, c * c - d * d, 2 * c * d], [0, 2 * c * d, d * d - c * c]]) * (
        SPACING
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"quatern_d": np.sqrt(1 - 0.08**2 + 7e-7)},
        {"quatern_d": np.sqrt(1 - 0.08**2 + 1e-4)},
        {"pixdim": [0, *SPACING, 0, 0, 0, 0]},
    ],
)
def test_qforms_are_read_as_the_standard_reads_them(fields):
    header = read_header(io.BytesIO(qform_header(**fields)))
    np.testing.assert_allclose(header.affine[:3, :3], half_turn(), rtol=0, atol=1e-3)
    with pytest.raises(UserError, match="no usable geometry"):
        read_header(io.BytesIO(qform_header(quatern_d=1.1)))


@pytest.mark.parametrize(("code", "factor"), [(1, 1000), (2, 1), (3, 0.001), (0, 1), (10, 1)])
def test_units_of_the_header_are_applied(code, factor):
    """0.00125 mL is 0.5 x 0.5 x 5 mm."""
    affine = LAS_AFFINE.copy()
    affine[:3] /= factor
    for qform_only in (True, False):
        content = nifti_bytes(
            np.arange(60, dtype=np.int16).reshape(4, 5, 3), affine, qform_only=qform_only
        )
        raw = nibabel.Nifti1Header(content[:348])
        raw["xyzt_units"] = code
        volume = read(raw.binaryblock + content[348:])
        np.testing.assert_allclose(volume.spacing_mm, SPACING, rtol=1e-6)
        assert voxel_volume_ml(volume.affine) == pytest.approx(0.00125)
        header = read_header(io.BytesIO(raw.binaryblock + content[348:]))
        assert bool(header.notes) == (factor != 1)


def test_units_that_are_less_plausible_than_millimetres_are_noted():
    header = header_with(xyzt_units=3, dim=[3, 400, 400, 32, 1, 1, 1, 1])
    (note,) = read_header(io.BytesIO(header)).notes
    assert note == (
        "spacing: 0.5 x 0.5 x 5 micrometres by the header: 0.5 x 0.5 x 5 mm would be more "
        "plausible for a head"
    )


def test_spacing_of_pixdim_that_is_not_the_affines_is_noted():
    def notes_of(sform, pixdim, shape):
        image = nibabel.Nifti1Image(np.zeros(shape, np.int16), None)
        image.header.set_sform(sform, code=1)
        image.header["pixdim"][1:4] = pixdim
        return read_header(io.BytesIO(image.to_bytes())).notes

    head = (256, 256, 30)
    assert notes_of(np.diag([1.0, 1, 1, 1]), (0.9, 0.9, 5), head) == (
        "spacing: 1 x 1 x 1 mm by the affine, 0.9 x 0.9 x 5 mm by pixdim: the affine's is used; "
        "pixdim's is the more plausible for a head",
    )
    (note,) = notes_of(np.diag([0.9, 0.9, 5, 1]), (1, 1, 1), head)
    assert note.endswith("the affine's is the more plausible for a head")
    # Gantry tilt kept in the sform: pixdim may be along the table or across the slices.
    tilt = np.deg2rad(20)
    sheared = np.diag([0.5, 0.5, 5.0, 1.0])
    sheared[:3, 1] = [0, 0.5 * np.cos(tilt), 0.5 * np.sin(tilt)]
    for thickness in (5.0, 5 * np.cos(tilt)):
        assert notes_of(sheared, (0.5, 0.5, thickness), head) == ()
    assert notes_of(sheared, (0, 0, 0), head) == ()


@pytest.mark.parametrize("low_high", [(0, 1), (-1.5, 6.25), (0, 5)])
def test_voxels_that_are_scaled_or_a_mask_are_refused(low_high):
    stored = np.linspace(*low_high, 60).reshape(4, 5, 3).astype(np.float32)
    with pytest.raises(UserError, match=r"values from .* only: scaled, or a mask"):
        read(nifti_bytes(stored))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.nii: no such file"):
        read_volume(Path(tmp_path / "none.nii"))


GEOMETRY_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("version", "codes", "unit_code"),
    [(1, (2, 4), 2), (1, (1, 0), 2), (1, (0, 3), 1), (2, (4, 1), 3)],
)
def test_a_mask_repeats_the_geometry_of_its_scan(tmp_path, version, codes, unit_code, suffix):
    """Its version, qform, sform, codes and unit of space, read by nibabel."""
    kind = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}[version]
    affine = LAS_AFFINE.copy()
    affine[:3] *= {1: 1e-3, 2: 1, 3: 1e3}[unit_code]
    stored = RNG.integers(-1000, 1000, (4, 5, 3)).astype(np.int16)
    image = kind(stored, None)
    image.set_qform(affine if codes[0] else None, code=codes[0])
    image.set_sform(affine if codes[1] else None, code=codes[1])
    image.header["xyzt_units"] = unit_code + 8  # Seconds, which a mask has none of.
    (tmp_path / "scan.nii").write_bytes(image.to_bytes())
    volume = read_volume(tmp_path / "scan.nii")
    path = tmp_path / f"mask{suffix}"
    write_label(path, (volume.hu % 6).astype(np.uint8), volume)
    mask, scan = nibabel.load(path), nibabel.load(tmp_path / "scan.nii")
    assert type(mask) is kind and mask.get_data_dtype() == np.uint8
    for field in GEOMETRY_FIELDS:
        expected = unit_code if field == "xyzt_units" else scan.header[field]
        np.testing.assert_array_equal(mask.header[field], expected, err_msg=field)
    np.testing.assert_array_equal(mask.header["pixdim"][:4], scan.header["pixdim"][:4])
    np.testing.assert_array_equal(mask.affine, scan.affine)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), stored % 6)


def test_a_qform_with_negative_spacing_is_refused():
    """The standard has no negative spacing: it might be meant as a flip of left and right."""
    content = qform_header(pixdim=[1, -0.5, 0.5, 5, 0, 0, 0, 0])
    with pytest.raises(UserError, match=r"no usable geometry.*spacing above zero"):
        read_header(io.BytesIO(content))
