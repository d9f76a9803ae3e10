"""Masks in folders: scored by the rules of a run, refused in one line where they cannot be."""

import contextlib
import csv
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from mbh_jax import evaluate
from mbh_jax.errors import STARTS_AGAIN
from mbh_jax.evaluation import folders as folders_module
from mbh_jax.evaluation.case import score_case
from mbh_jax.labels import LABELS
from mbh_jax.reporting.report import page

AFFINE = np.array([[-0.5, 0, 0, 9], [0, 0.5, 1, 8], [0, 0, 5, 7], [0, 0, 0, 1.0]])


def write_mask(path: Path, label: np.ndarray, affine: np.ndarray = AFFINE, dtype=np.uint8) -> None:
    """A NIfTI file; `label` is (i, j, k)."""
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(label.astype(dtype), affine), path)


def label_of(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    label = np.zeros((12, 10, 4), np.uint8)
    for value in range(1, 6):
        i, j, k = rng.integers(0, (9, 7, 3))
        label[i : i + 3, j : j + 3, k : k + 2] = value
    return label


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three references; two of them have a prediction, and a third prediction has no reference."""
    predictions, references = tmp_path / "predicted", tmp_path / "true"
    for number, name in enumerate("abc"):
        write_mask(references / f"{name}.nii.gz", label_of(number))
    write_mask(predictions / "a.nii.gz", label_of(0))
    write_mask(predictions / "b.nii.gz", np.roll(label_of(1), 1, axis=0))
    write_mask(predictions / "z.nii.gz", label_of(3))
    return predictions, references


def run(predictions: Path, references: Path, *more: str) -> int:
    given = [f"--predictions={predictions}", f"--references={references}", *more]
    try:
        evaluate.main(given)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def equal_with_nan(one: object, other: object) -> bool:
    """Whether two values read from JSON are equal, where NaN equals NaN and rounding may differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(equal_with_nan(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal_with_nan, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == pytest.approx(other, rel=1e-12, nan_ok=True)
    return one == other


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_scored_and_a_missing_prediction_counts_as_missed(folders, tmp_path, capsys):
    assert run(*folders, f"--output={tmp_path / 'out'}", "--rules=brats") == 0
    said = capsys.readouterr().out
    assert "warning: no prediction, counted as missed: c" in said
    assert "warning: no reference, left out: z" in said
    rows = {(row["case"], row["class"]): row for row in rows_of(tmp_path / "out" / "per_case.csv")}
    assert len(rows) == 3 * 6
    assert rows["a", "any"]["dice"] == "1.0" and rows["a", "any"]["hd95_mm"] == "0.0"
    assert rows["c", "IPH"]["dice"] == "0.0" and rows["c", "IPH"]["hd95_mm"] == "inf"
    # The metrics do not depend on how the file stores its axes.
    turned = [np.moveaxis(mask, -1, 0) for mask in (label_of(1), np.roll(label_of(1), 1, axis=0))]
    step = AFFINE[:, [1, 0, 2, 3]]
    expected = score_case(turned[0], turned[1], step)
    for name, scores in expected.items():
        row = rows["b", name]
        assert float(row["dice"]) == pytest.approx(scores.dice)
        assert float(row["hd95_mm"]) == pytest.approx(scores.hd95_mm)
        assert float(row["surface_dice_1mm"]) == pytest.approx(scores.surface_dice_1mm)
        assert float(row["ref_ml"]) == pytest.approx(scores.ref_ml)
    summary = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert summary["missing_predictions"] == ["c"] and summary["without_reference"] == ["z"]
    assert summary["distances"]["IPH"]["num_missed"] == 1
    assert Path(summary["metric_per_case"][1]["prediction_file"]).name == "b.nii.gz"
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.filterwarnings("ignore:Mean of empty slice")  # nnU-Net's.
@pytest.mark.parametrize("absent", [(), (3,)])
def test_nnunet_reads_the_summary_and_has_the_same_numbers(absent, folders, tmp_path):
    """Its own evaluation of the same masks; it has no rule for a missing prediction.

    With a class that is in no mask its values are NaN, and so is the mean over the classes.
    """
    evaluation = pytest.importorskip("nnunetv2.evaluation.evaluate_predictions")
    predictions, references = folders
    write_mask(predictions / "c.nii.gz", label_of(5))
    (predictions / "z.nii.gz").unlink()
    for path in [*predictions.iterdir(), *references.iterdir()]:
        label = np.asarray(nibabel.load(path).dataobj)
        write_mask(path, np.where(np.isin(label, absent), 0, label))
    assert run(*folders, f"--output={tmp_path / 'out'}") == 0
    ours = evaluation.load_summary_json(str(tmp_path / "out" / "summary.json"))
    given = (str(references), str(predictions), [1, 2, 3, 4, 5])
    evaluation.compute_metrics_on_folder_simple(*given, output_file=str(tmp_path / "theirs.json"))
    theirs = evaluation.load_summary_json(str(tmp_path / "theirs.json"))
    # The blocks are equal, key by key: nothing lacks, and nothing of ours is among them.
    assert equal_with_nan({name: ours[name] for name in theirs}, theirs)


def test_probabilities_beside_a_mask_are_calibrated(folders, tmp_path, capsys):
    """All predictions of case a are right and 0.8 sure; of b those of blood are 0.9 sure."""
    predictions = folders[0]
    for name, sure in (("a", 0.8), ("b", 0.9)):
        label = np.asarray(nibabel.load(predictions / f"{name}.nii.gz").dataobj)
        probabilities = np.full((6, *label.shape), (1 - sure) / 5)
        np.put_along_axis(probabilities, label[None].astype(int), sure, axis=0)
        stored = probabilities.transpose(0, 3, 2, 1).astype(np.float16)  # (class, k, j, i)
        np.savez(predictions / f"{name}.npz", probabilities=stored)
    assert run(*folders, f"--output={tmp_path / 'out'}") == 0
    assert "expected calibration error of 2 cases" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["calibration"]
    masks = [
        [np.asarray(nibabel.load(folder / f"{name}.nii.gz").dataobj) for folder in folders]
        for name in "ab"
    ]
    gaps = {}
    for which in ("whole", "foreground"):
        used = [(p > -1) if which == "whole" else (p > 0) | (r > 0) for p, r in masks]
        right = [(p == r)[u].sum() for (p, r), u in zip(masks, used, strict=True)]
        number = [u.sum() for u in used]
        # 0.8 and 0.9 lie in different ones of 15 bins.
        gaps[which] = sum(
            abs(sure * n - ok) for sure, n, ok in zip((0.8, 0.9), number, right, strict=True)
        ) / sum(number)
        assert found[which]["ece"] == pytest.approx(gaps[which], abs=2e-3)
    assert sum(found["whole"]["voxels"]) == 2 * 12 * 10 * 4
    said = (tmp_path / "out" / "report.html").read_text()
    assert f"truth or prediction has blood: ECE {gaps['foreground']:.3f}" in said


def test_processes_give_the_numbers_of_one(folders):
    from mbh_jax.evaluation.folders import Pair, Reading, score_folders

    predictions, references = folders
    pairs = [
        Pair(str(i), references / f"{name}.nii.gz", predictions / f"{name}.nii.gz")
        for i, name in enumerate("abab")
    ]
    one, several = (list(score_folders(pairs, Reading(), workers=number)) for number in (1, 2))
    for a, b in zip(one, several, strict=True):
        np.testing.assert_array_equal(a.confusion, b.confusion)
        assert a.regions["any"][:5] == b.regions["any"][:5]


def test_nothing_of_the_training_stack_is_imported(folders):
    heavy = ("jax", "flax", "optax", "orbax", "tensorflow", "tensorflow_datasets", "torch")
    code = (
        "import sys; from mbh_jax import evaluate; "
        f"evaluate.main(['--predictions={folders[0]}', '--references={folders[1]}']); "
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_labels_of_other_masks_are_translated(folders, tmp_path, capsys):
    """nnU-Net's dataset.json, and a table from values to names, for masks in another order."""
    predictions, references = folders
    other = np.array([0, 5, 1, 2, 3, 4])
    for folder in (predictions, references):
        for path in folder.iterdir():
            write_mask(path, other[np.asarray(nibabel.load(path).dataobj)])
    names = {"background": 0, "EDH": 5, "IPH": 1, "IVH": 2, "SAH": 3, "SDH": 4}
    by_value = {str(value): name for name, value in names.items()}
    for number, content in enumerate(({"labels": names}, by_value)):
        path = tmp_path / "labels.json"
        path.write_text(json.dumps(content))
        assert run(*folders, f"--labels={path}", f"--output={tmp_path / str(number)}") == 0
    for number in range(2):
        rows = rows_of(tmp_path / str(number) / "per_case.csv")
        counts = np.bincount(label_of(0).ravel(), minlength=6)
        assert [int(row["n_ref"]) for row in rows[:5]] == counts[1:].tolist()


def test_labels_of_predictions_alone_are_translated(folders, tmp_path, capsys):
    """As a public network for BHSD has them: references are ours, predictions in another order."""
    other = np.array([0, 1, 5, 4, 2, 3], np.uint8)
    for path in folders[0].iterdir():
        write_mask(path, other[np.asarray(nibabel.load(path).dataobj)])
    assert run(*folders) == 0
    assert "with another order of the predicted classes" in capsys.readouterr().out
    labels = tmp_path / "labels.json"
    labels.write_text('{"1": "EDH", "2": "SAH", "3": "SDH", "4": "IVH", "5": "IPH"}')
    given = (f"--prediction_labels={labels}", f"--output={tmp_path / 'out'}")
    assert run(*folders, *given) == 0
    assert "with another order" not in capsys.readouterr().out
    rows = rows_of(tmp_path / "out" / "per_case.csv")
    assert {row["dice"] for row in rows if row["case"] == "a"} == {"1.0"}


def test_scans_of_a_patient_stay_together(folders, tmp_path):
    table = tmp_path / "patients.csv"
    table.write_text("volume_id,patient_id\na,p\nb,p\nc,q\nelsewhere,r\n")
    for given in ((), (f"--patients={table}",)):
        out = tmp_path / f"out{len(given)}"
        assert run(*folders, f"--output={out}", *given) == 0
        summary = json.loads((out / "evaluation.json").read_text())
        assert summary["num_patients"] == (2 if given else 3)
        assert summary["patients_known"] == bool(given)
        said = "3 cases of 2 patients" if given else "3 cases, each taken for another patient"
        assert said in (out / "report.html").read_text()
    assert summary["patients"] == {"a": "p", "b": "p", "c": "q"}


def test_by_index_compares_voxels_as_they_are_stored(folders, tmp_path):
    """A prediction that was saved without the scan's affine, whose axes so point elsewhere."""
    predictions, references = folders
    for name in "ab":
        label = np.asarray(nibabel.load(predictions / f"{name}.nii.gz").dataobj)
        write_mask(predictions / f"{name}.nii.gz", label, affine=np.eye(4))
    assert run(predictions, references) == 1
    assert run(predictions, references, "--by_index", f"--output={tmp_path / 'out'}") == 0
    rows = {(row["case"], row["class"]): row for row in rows_of(tmp_path / "out/per_case.csv")}
    assert rows["a", "any"]["dice"] == "1.0"
    turned = [np.moveaxis(mask, -1, 0) for mask in (label_of(1), np.roll(label_of(1), 1, axis=0))]
    expected = score_case(turned[0], turned[1], AFFINE[:, [1, 0, 2, 3]])["any"]
    assert float(rows["b", "any"]["dice"]) == pytest.approx(expected.dice)
    assert float(rows["b", "any"]["hd95_mm"]) == pytest.approx(expected.hd95_mm)


def test_pictures_beside_volumes_are_no_masks(folders, capsys):
    """`mbh_jax.predict` writes a picture beside each mask."""
    for name in "ab":
        Image.fromarray(np.full((4, 4, 3), 77, np.uint8)).save(folders[0] / f"{name}.png")
    assert run(*folders) == 0
    assert "3 cases" in capsys.readouterr().out


def test_pictures_are_scored_without_millimetres(tmp_path, capsys):
    colours = np.array([label.rgb for label in LABELS], np.uint8)
    for folder, seed in (("predicted", 0), ("true", 1)):
        (tmp_path / folder).mkdir()
        picture = Image.fromarray(colours[label_of(seed)[..., 1]])
        picture.save(tmp_path / folder / "slice_1.png")
    assert run(tmp_path / "predicted", tmp_path / "true", f"--output={tmp_path / 'out'}") == 0
    row = rows_of(tmp_path / "out" / "per_case.csv")[-1]
    assert int(row["n_ref"]) == np.count_nonzero(label_of(1)[..., 1])
    assert row["ref_ml"] == row["hd95_mm"] == ""


def _float(label):
    return label.astype(np.float32) + 0.5


def bad_inputs():
    """Name, what is done to the folders, further options, and what the line must say."""

    def predict(change, **how):
        return lambda p, r: write_mask(p / "a.nii.gz", change(label_of(0)), **how)

    moved = AFFINE.copy()
    moved[2, 3] += 5

    def remove_all(folder):
        for path in folder.iterdir():
            path.unlink()

    def put(name, content):
        return lambda p, r: (p / name).write_bytes(content)

    def colour(p, r):
        for folder in (p, r):
            remove_all(folder)
            Image.fromarray(np.full((4, 4, 3), 77, np.uint8)).save(folder / "a.png")

    def mixed(p, r):
        remove_all(p)
        Image.fromarray(np.zeros((10, 12, 3), np.uint8)).save(p / "a.png")

    def json_of(content):
        return lambda p, r: (p.parent / "labels.json").write_text(content)

    def image_of_another_shape(p, r):
        hu = np.random.default_rng(0).integers(-1000, 100, (12, 10, 5))
        write_mask(p.parent / "i" / "b.nii.gz", hu, dtype=np.int16)

    def image_elsewhere(p, r):
        hu = np.random.default_rng(0).integers(-1000, 100, (12, 10, 4))
        write_mask(p.parent / "i" / "b.nii.gz", hu, affine=moved, dtype=np.int16)

    def patients_of(content):
        return lambda p, r: (p.parent / "patients.csv").write_text(content)

    head = "volume_id,patient_id\n"
    labels, patients = "--labels={tmp}/labels.json", "--patients={tmp}/patients.csv"
    return [
        ("label 7", predict(lambda x: x + 2), (), "label value 7: labels must be 0 to 5"),
        ("negative", predict(lambda x: -1.0 * x, dtype=np.int16), (), "label value -5"),
        ("probabilities", predict(_float, dtype=np.float32), (), "not whole"),
        ("nan", predict(lambda x: x * np.nan, dtype=np.float32), (), "not whole"),
        (
            "shape",
            predict(lambda x: x[:, :9]),
            (),
            "12 x 9 x 4, its reference a.nii",
        ),
        ("slices", predict(lambda x: x[..., :3]), (), "give masks on one grid"),
        ("place", predict(lambda x: x, affine=moved), (), "up to 5.0 mm"),
        ("4D", predict(lambda x: np.stack([x, x], -1)), (), "give one 3-D volume a file"),
        ("empty file", put("a.nii.gz", b""), (), "a.nii.gz"),
        ("text", put("a.nii.gz", b"no volume" * 99), (), "a.nii.gz"),
        ("truncated", put("a.nii.gz", gzip.compress(bytes(200))), (), "a.nii.gz"),
        ("two of a name", put("a.nii", b""), (), "are both called a"),
        ("no predictions", lambda p, r: remove_all(p), (), "holds no masks"),
        ("no references", lambda p, r: remove_all(r), (), "holds no masks"),
        (
            "no common names",
            lambda p, r: [f.rename(f.with_name(f"x_{f.name}")) for f in list(p.iterdir())],
            (),
            "no names in common (such as x_a and a)",
        ),
        ("no folder", lambda p, r: (remove_all(p), p.rmdir()), (), "no such folder"),
        ("a file", lambda p, r: (remove_all(p), p.rmdir(), p.write_text("")), (), "no such folder"),
        ("other colours", colour, (), "grey value 77 stands for no class"),
        ("picture and volume", mixed, (), "give masks"),
        (
            "probabilities of another shape",
            lambda p, r: np.savez(p / "a.npz", probabilities=np.ones((6, 2, 2, 2))),
            (),
            "a.npz: not the probabilities",
        ),
        ("no archive", put("a.npz", b"x"), (), "a.npz: not the probabilities"),
        ("no labels file", lambda p, r: None, (labels,), "not a JSON file"),
        ("no json", json_of("{"), (labels,), "not a JSON file"),
        ("json list", json_of("[1]"), (labels,), "give {"),
        ("unknown class", json_of('{"1": "blood"}'), (labels,), "'blood': give one of"),
        ("value not listed", json_of('{"1": "EDH"}'), (labels,), "is not in --labels or --pred"),
        (
            "unknown class of predictions",
            json_of('{"1": "blood"}'),
            ("--prediction_labels={tmp}/labels.json",),
            "'blood': give one of",
        ),
        ("no patients file", lambda p, r: None, (patients,), "not a CSV file"),
        ("patients of others", patients_of(head + "a,x\n"), (patients,), "for b and"),
        ("other columns", patients_of("name;patient_id\na;x\n"), (patients,), "give volume_id and"),
        ("two patients", patients_of(head + "a,x\na,y\n"), (patients,), "of x and of y"),
        (
            "a link to nothing",
            lambda p, r: (r / "d.nii.gz").symlink_to(r / "gone"),
            (),
            "d.nii.gz: no such file",
        ),
        (
            "by index with other axes",
            predict(lambda x: x.transpose(1, 0, 2), affine=AFFINE[:, [1, 0, 2, 3]]),
            ("--by_index",),
            "stored as 10 x 12 x 4, its reference a.nii.gz as 12 x 10 x 4",
        ),
        ("image's place", image_elsewhere, ("--images={tmp}/i",), "up to 5.0 mm from those of b"),
        ("blood is 0", json_of('{"0": "EDH"}'), (labels,), "value 0 is EDH"),
        ("no decimal", json_of('{"\\u00b2": "EDH"}'), (labels,), "class '²'"),
        ("region", json_of('{"labels": {"IPH": [2, 5]}}'), (labels,), "IPH has the value [2, 5]"),
        (
            "no UTF-8",
            lambda p, r: (p / "a.nii.gz").rename(p / os.fsdecode(b"\xe9.nii.gz")),
            (),
            "\\udce9.nii.gz': a name that is not UTF-8",
        ),
        ("a folder", lambda p, r: (p / "c.nii.gz").mkdir(), (), "c.nii.gz: a folder"),
        (
            "twice the same folder",
            lambda p, r: None,
            ("--predictions={tmp}/true",),
            "are both {tmp}/true",
        ),
        ("no images", lambda p, r: None, ("--images={tmp}/none",), "no such folder"),
        (
            "other images",
            lambda p, r: (p.parent / "i").mkdir(),
            ("--images={tmp}/i",),
            "no scan of",
        ),
        ("image's shape", image_of_another_shape, ("--images={tmp}/i",), "another shape"),
        ("output", lambda p, r: None, ("--output={tmp}/true",), "give another folder"),
        ("output a file", put("out", b""), ("--output={tmp}/predicted/out",), "is a file"),
        ("no workers", lambda p, r: None, ("--workers=0",), "--workers 0: give 1 or more"),
    ]


@pytest.mark.parametrize("case", [pytest.param(case[1:], id=case[0]) for case in bad_inputs()])
def test_what_cannot_be_scored_is_one_line(case, folders, tmp_path, capsys):
    change, options, said = case
    change(*folders)
    given = [option.format(tmp=tmp_path) for option in options]
    out = f"--output={tmp_path / 'out'}"
    assert run(*folders, *([out] if not any("output" in o for o in given) else []), *given) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and said.replace("{tmp}", str(tmp_path)) in error
    assert not (tmp_path / "out").exists()


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """A limit of the size of files, as a quota or a disk that is almost full has."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_full_disk_leaves_the_results_of_before(folders, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(*folders, f"--output={out}") == 0
    before = content(out)
    (folders[0] / "b.nii.gz").unlink()
    for size in (2_000, 20_000):  # Too little for a table, and for the report.
        with files_up_to(size):
            assert run(*folders, f"--output={out}") == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error == f"error: {out}/report.html: File too large"
        assert content(out) == before


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, 75, STARTS_AGAIN),
        (signal.SIGINT, 130, "interrupted"),
    ],
)
@pytest.mark.parametrize(
    ("module", "name"), [(folders_module, "score_pair"), (page, "_environment")]
)
def test_a_signal_in_the_middle_leaves_nothing(  # noqa: PLR0917
    number, code, said, module, name, folders, tmp_path, capsys, monkeypatch
):
    """While a case is scored, and while the report is written."""
    real = getattr(module, name)

    def signalled(*arguments, **keywords):
        signal.raise_signal(number)
        return real(*arguments, **keywords)

    monkeypatch.setattr(module, name, signalled)
    if number == signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("this test runner was started in the background, and ignores Ctrl-C")
    before = signal.getsignal(number)
    out = tmp_path / "new" / "out"
    assert run(*folders, f"--output={out}") == code
    assert capsys.readouterr().err.splitlines()[-1] == said
    assert not (tmp_path / "new").exists()
    assert signal.getsignal(number) == before


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_workers_end_with_a_command_that_is_stopped(folders, tmp_path):
    predictions, references = folders
    for number in range(60):
        for folder in folders:
            (folder / f"x{number}.nii.gz").hardlink_to(folder / "a.nii.gz")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mbh_jax.evaluate", f"--predictions={predictions}"),
            *(f"--references={references}", f"--output={tmp_path / 'out'}", "--workers=2"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stderr is not None
    assert "scoring" in process.stderr.readline()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    commands = {child: Path(f"/proc/{child}/cmdline").read_text() for child in children}
    workers = [child for child, command in commands.items() if "spawn_main" in command]
    assert len(workers) == 2
    process.terminate()
    *_, line = process.stderr.read().splitlines()
    assert (process.wait(), line[:20]) == (75, "stopped on request: ")
    assert not (tmp_path / "out").exists()
    assert not [one for one in workers if Path(f"/proc/{one}").exists()]
