"""Whatever header a volume has, it is read to one orientation and written back as it was."""

import io
import itertools
import tempfile
from pathlib import Path

import nibabel
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_ct import nifti_bytes

from mbh_jax.imageio.nifti import read_volume, write_volume

ORDERS = list(itertools.permutations(range(3)))


@st.composite
def stored_volumes(draw):
    """Stored voxels, and an affine with the axes in any order and turned by up to 30 degrees."""
    shape = tuple(draw(st.integers(1, 6)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.int16, np.uint16, np.int32, np.float32, np.float64]))
    stored = rng.integers(0, 3000, shape).astype(dtype)
    angles = np.deg2rad([draw(st.floats(-30, 30)) / 2 for _ in range(2)])
    rotation = np.eye(3)
    for axis, angle in zip((0, 2), angles, strict=True):
        first, second = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    spacing = [draw(st.floats(0.2, 8.0)) for _ in range(3)]
    signs = [draw(st.sampled_from([-1, 1])) for _ in range(3)]
    order = draw(st.sampled_from(ORDERS))
    affine = np.eye(4)
    affine[:3, :3] = (rotation * spacing * signs)[:, order]
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return stored, affine


@settings(max_examples=100, deadline=None)
@given(
    volume=stored_volumes(),
    byte_order=st.sampled_from("<>"),
    version=st.sampled_from([1, 2]),
    qform_only=st.booleans(),
)
def test_volumes_are_read_as_nibabel_would_turn_them(volume, byte_order, version, qform_only):
    stored, affine = volume
    content = nifti_bytes(
        stored, affine, byte_order=byte_order, version=version, qform_only=qform_only
    )
    read = read_volume(io.BytesIO(content), "case")
    image_class = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}[version]
    canonical = nibabel.as_closest_canonical(image_class.from_bytes(content))  # RAS
    expected = np.asarray(canonical.dataobj)[::-1, ::-1].transpose(2, 1, 0)
    np.testing.assert_array_equal(read.hu, expected)
    rows, columns = read.hu.shape[1:]
    for column, row, slice_index in ((0, 0, 0), (columns - 1, rows - 1, len(read.hu) - 1)):
        voxel = [columns - 1 - column, rows - 1 - row, slice_index, 1]
        place_mm = read.affine @ [column, row, slice_index, 1]
        np.testing.assert_allclose(place_mm, canonical.affine @ voxel, atol=1e-3)


@settings(max_examples=50, deadline=None)
@given(volume=stored_volumes())
def test_what_is_written_is_what_was_read(volume):
    stored, affine = volume
    content = nifti_bytes(stored, affine, qform_only=False)
    read = read_volume(io.BytesIO(content), "case")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "written.nii"
        write_volume(path, read)
        written = nibabel.Nifti1Image.from_filename(path)
        np.testing.assert_array_equal(np.asarray(written.dataobj), stored)
        np.testing.assert_allclose(written.affine, affine, atol=1e-4)
        again = read_volume(path)
    np.testing.assert_array_equal(again.hu, read.hu)
    np.testing.assert_allclose(again.affine, read.affine, atol=1e-4)
    assert again.stored_axcodes == read.stored_axcodes
