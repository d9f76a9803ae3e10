"""Networks that see neighbouring slices: which slices, whose pixels, the same on every way."""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from run_commands import tiny_config

import mbh_jax.data.neighbours as beside_slices
from data_prep import pack_dataset
from mbh_jax import config as config_keys
from mbh_jax.data import preprocess, resident
from mbh_jax.data.augmentation import AUGMENTATIONS, intensity, presets
from mbh_jax.data.augmentation.registry import create_from_preset
from mbh_jax.data.index import SliceIndex
from mbh_jax.data.loader import Loader
from mbh_jax.data.neighbours import Setting, Stack, of_stacks
from mbh_jax.errors import UserError


def straight(slice_mm: float) -> np.ndarray:
    """An affine with pixels of 0.5 mm and slices at right angles to the table."""
    return np.diag([-0.5, -0.5, slice_mm, 1.0])


def sheared(tilt_deg: float, table_mm: float) -> np.ndarray:
    """An affine whose rows are tilted about the left-right axis while the table moves along z."""
    affine = straight(table_mm)
    angle = np.deg2rad(tilt_deg)
    affine[:3, 1] = 0.5 * np.array([0, -np.cos(angle), -np.sin(angle)])
    return affine


def test_neighbours_are_the_next_slices_and_never_of_another_scan() -> None:
    stacks = [Stack(4, straight(5.0)), Stack(1, None), Stack(2, None)]
    found = of_stacks(stacks, Setting(2))
    assert found.row.tolist() == [
        [0, 0, 0, 1, 2],
        [0, 0, 1, 2, 3],
        [0, 1, 2, 3, 3],
        [1, 2, 3, 3, 3],
        [4, 4, 4, 4, 4],
        [5, 5, 5, 6, 6],
        [5, 5, 6, 6, 6],
    ]
    assert found.row.dtype == found.shift.dtype == np.int32
    assert found.shift.shape == (7, 5, 2) and not found.shift.any()
    assert of_stacks(stacks, Setting()).row.tolist() == [[number] for number in range(7)]


@pytest.mark.parametrize(
    ("slice_mm", "steps"),
    [
        (1.0, [-10, -5, 0, 5, 10]),
        (3.0, [-3, -2, 0, 2, 3]),  # 10 mm are 3.3 slices, 5 mm 1.7.
        (5.0, [-2, -1, 0, 1, 2]),
        (10.0, [-1, 0, 0, 0, 1]),  # Half a slice: the nearer one to the middle.
        (10.0 - 1e-5, [-1, 0, 0, 0, 1]),
        (12.0, [-1, 0, 0, 0, 1]),
    ],
)
def test_a_distance_in_mm_chooses_the_nearest_slices(slice_mm: float, steps: list[int]) -> None:
    stack = Stack(41, straight(slice_mm))
    assert (of_stacks([stack], Setting(2, 5.0)).row[20] - 20).tolist() == steps
    unknown = Stack(41, None)
    assert (of_stacks([unknown], Setting(2, 5.0)).row[20] - 20).tolist() == [-2, -1, 0, 1, 2]


def test_the_distance_is_that_along_the_normal_of_tilted_slices() -> None:
    # 10 mm along the table are 5 mm along the normal at 60 degrees.
    found = of_stacks([Stack(9, sheared(60.0, 10.0))], Setting(1, 5.0))
    assert found.row[4].tolist() == [3, 4, 5]


@pytest.mark.parametrize("tilt_deg", [-20.0, 0.0, 12.0])
def test_slices_of_a_sheared_stack_are_shifted_onto_each_other(tilt_deg: float) -> None:
    """A rod along the normal of the slices is seen at one place of all of them."""
    affine, size = sheared(tilt_deg, 5.0), 96
    axes = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    slices, rows, columns = np.meshgrid(*map(np.arange, (5, size, size)), indexing="ij")
    voxels = np.stack([columns, rows, slices], axis=-1) @ affine[:3, :3].T
    centre = affine[:3, :3] @ [50, 44, 2]
    # Distance from the line through `centre` along the normal, whose direction leaves both axes.
    distance_mm = np.linalg.norm((voxels - centre) @ axes, axis=-1)
    hu = np.round(1000 - 40 * distance_mm).astype(np.int16)
    found = of_stacks([Stack(5, affine)], Setting(2))
    image = beside_slices.gather(hu[found.row], found.shift)
    assert image.shape == (5, size, size, 5)
    inner = image[2, 20:70, 20:-20].astype(int)
    # Whole pixels: at most half of one, 0.25 mm or 10 HU, is left.
    assert np.abs(inner - inner[..., 2:3]).max() <= 11
    moved = np.abs(np.diff(hu[:, 20:70, 20:-20].astype(int), axis=0)).max()
    assert (moved > 11) == bool(tilt_deg)
    # What comes from outside is the nearest pixel of the neighbour.
    shift = int(found.shift[2, 4, 0])
    edge, line = (0, slice(0, -shift)) if shift < 0 else (-1, slice(size - shift, None))
    np.testing.assert_array_equal(
        image[2, line, :, 4], np.broadcast_to(hu[4, edge], (abs(shift), size))
    )


def with_tilt(index: SliceIndex) -> SliceIndex:
    """The same dataset, with volumes tilted by 0 to 12 degrees and slices of 2 to 5 mm."""
    volumes = tuple(
        dataclasses.replace(one, affine=sheared(number % 5 * 3.0, 2.0 + number % 4))
        for number, one in enumerate(index.volumes)
    )
    return dataclasses.replace(index, volumes=volumes)


def expected_image(index: SliceIndex, hu: np.ndarray, example: int, mm: float) -> np.ndarray:
    """A slice with one neighbour on each side (H, W, 3), from all pixels of the dataset (N, H, W).

    Slice by slice: the nearest one of the volume, at shifts that put its pixels above those of the
    middle one.
    """
    volume = index.volumes[index.volume[example]]
    of_volume = np.flatnonzero(index.volume == index.volume[example])
    normal = np.cross(volume.affine[:3, 0], volume.affine[:3, 1])
    normal /= np.linalg.norm(normal)
    heights = np.arange(len(of_volume)) * abs(normal @ volume.affine[:3, 2])
    place = int(index.slice_index[example])
    channels = []
    for side in (-1, 0, 1):
        target = place + side
        if mm:
            target = int(np.abs(heights - heights[place] - side * mm).argmin())
        target = min(max(target, 0), len(of_volume) - 1)
        pixels = hu[of_volume[target]]
        step = volume.affine[:3, 2] * (target - place)
        row_axis = volume.affine[:3, 1]
        down = -round(float(step @ row_axis) / float(row_axis @ row_axis))
        rows = np.clip(np.arange(len(pixels)) + down, 0, len(pixels) - 1)
        channels.append(pixels[rows])
    return np.stack(channels, axis=-1)


@pytest.fixture(scope="module")
def packed_dir(tiny_dataset_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed copy of the tiny dataset; do not change it."""
    copy = shutil.copytree(tiny_dataset_dir, tmp_path_factory.mktemp("beside") / "dataset")
    pack_dataset.main([f"--data_dir={copy}"])
    return copy


@pytest.mark.parametrize("mm", [0.0, 3.1])
def test_records_packed_files_and_device_memory_give_the_same_pixels(
    packed_dir: Path, monkeypatch: pytest.MonkeyPatch, mm: float
) -> None:
    load = SliceIndex.load
    monkeypatch.setattr(SliceIndex, "load", lambda *a, **k: with_tilt(load(*a, **k)))
    changes = {"data__neighbours": 1, "data__neighbour_mm": mm}
    streamed = Loader(tiny_config(packed_dir, **changes).data)
    packed = Loader(tiny_config(packed_dir, **changes, data__resident=True).data)
    index = streamed.index
    hu, _ = streamed.read_slices(np.arange(len(index), dtype=np.int32))
    # Their neighbours without blood are not among the training slices.
    examples = index.examples("train", "blood")[::-1]
    (slices,) = packed.resident_slices(examples, jax.device_put)
    which = {"global_batch": 8, "start_batch": 1}
    shifted = 0
    for one, other in zip(
        streamed.train_batches(examples, **which),
        packed.train_batches(examples, **which),
        strict=True,
    ):
        gathered = jax.device_get(resident.gather(slices, other["example"]))
        for name, values in gathered.items():
            assert values.dtype == one[name].dtype
            np.testing.assert_array_equal(values, one[name])
        for example, image in zip(one["example"], one["image"], strict=True):
            expected = expected_image(index, hu, example, mm) if example >= 0 else 0 * image
            np.testing.assert_array_equal(image, expected)
            shifted += (expected[..., 0] != hu[max(example - 1, 0)]).any()
    assert one["weight"].min() == 0 and shifted  # The last batch is padded.
    ours, theirs = (
        list(loader.eval_batches(index.examples("train"), global_batch=8))
        for loader in (streamed, packed)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one["image"].shape == (8, 64, 64, 3)
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name])


def test_neighbours_are_of_the_same_dataset(tiny_dataset_dir: Path) -> None:
    index = SliceIndex.load(tiny_dataset_dir)
    alone, both = (
        beside_slices.of_index(one, Setting(4)).row for one in (index, index.with_extra(index))
    )
    assert (index.volume[alone] == index.volume[:, np.newaxis]).all()
    np.testing.assert_array_equal(both, np.concatenate([alone, alone + len(index)]))


def test_slices_that_are_resized_on_the_host_are_shifted_before(
    tiny_dataset_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow as tf

    from mbh_jax.data import pipeline

    index = with_tilt(SliceIndex.load(tiny_dataset_dir))
    table = beside_slices.of_index(index, Setting(1))
    examples = index.examples("train")[:3]
    (whole,) = pipeline.batches(index, examples, global_batch=3, beside=table)
    (small,) = pipeline.batches(index, examples, global_batch=3, beside=table, resize_to=(24, 24))
    resized = tf.image.resize(whole["image"], (24, 24), antialias=True)
    np.testing.assert_array_equal(small["image"], np.round(resized).astype(np.int16))


def test_windows_come_slice_by_slice() -> None:
    hu = np.random.default_rng(0).integers(-50, 150, (2, 4, 4, 3)).astype(np.int16)
    for preset in ("brain_subdural_bone", "hu_0_255", "brain"):
        image = np.asarray(preprocess.apply_windows(hu, preset))
        one_by_one = [
            preprocess.apply_windows(hu[..., number : number + 1], preset) for number in range(3)
        ]
        np.testing.assert_array_equal(image, np.concatenate(one_by_one, axis=-1))


def everything_but_noise(preset: presets.Preset) -> presets.Preset:
    """The preset with each of its transforms in every example, on half of the channels."""
    always = {
        name: one._replace(probability=1.0, channel_probability=0.5)
        for name, one in preset._asdict().items()
        if isinstance(one, presets.Range)
    }
    return preset._replace(**always | {"noise": presets.OFF})


@pytest.mark.parametrize(
    ("name", "window"), [("strong", "brain_blood_wide"), ("original", "hu_0_255")]
)
def test_augmentation_changes_a_window_of_all_slices_alike(name: str, window: str) -> None:
    """Three equal slices stay equal, and change as one of them does alone."""
    if name == "strong":
        augmentation = create_from_preset(everything_but_noise(presets.STRONG), window)
    else:
        component = AUGMENTATIONS[name]
        values = {key: rule.default for key, rule in component.keys.items()}
        augmentation = component.create(window=window, **values | {"sharpening": True})
    rng = np.random.default_rng(1)
    hu = rng.integers(-20, 120, (6, 16, 16, 1)).astype(np.int16)
    label = rng.integers(0, 6, (6, 16, 16)).astype(np.uint8)
    random_keys = jax.random.split(jax.random.key(3), 6)

    @jax.jit
    def augment(hu: jax.Array) -> tuple[jax.Array, jax.Array]:
        changed = preprocess.apply_windows(augmentation.augment_hu(random_keys, hu), window)
        return augmentation.augment_image(random_keys, changed, label)

    alone, label_alone = augment(hu)
    image, moved = augment(hu.repeat(3, axis=-1))
    assert (np.asarray(alone) != preprocess.apply_windows(hu, window)).any()
    np.testing.assert_array_equal(moved, label_alone)
    for one in np.split(np.asarray(image), 3, axis=-1):
        np.testing.assert_allclose(one, alone, rtol=1e-4, atol=1e-4)


def test_noise_is_of_each_slice_and_the_same_in_its_windows() -> None:
    image = jax.numpy.zeros((8, 8, 6))  # 3 slices of 2 windows.
    noise = np.asarray(intensity.add_noise(jax.random.key(0), image, 1.0, num_slices=3))
    by_slice = noise.reshape(8, 8, 3, 2)
    np.testing.assert_array_equal(by_slice[..., 0], by_slice[..., 1])
    correlation = np.corrcoef(by_slice[..., 0].reshape(-1, 3).T)
    assert np.abs(correlation - np.eye(3)).max() < 0.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data__neighbour_mm": 5.0},
            r"data\.neighbour_mm=5 has no effect with",
        ),
        ({"model__slice_fusion": "convolution"}, r"model\.slice_fusion=convolution has no effect"),
        ({"data__neighbours": 5}, r"data\.neighbours must be a whole number from 0 to 4"),
    ],
)
def test_a_key_without_effect_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_keys.validate(tiny_config(Path("data"), **changes), num_devices=1)
