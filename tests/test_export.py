"""Bundles and exports of a trained network: the same results, and nothing damaged is read."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import jax.export
import numpy as np
import pytest
import run_commands
import safetensors.numpy
from etils import epath
from ml_collections import ConfigDict
from tiny_ct import tiny_volume

import mbh_jax
from data_prep.phantom import make_head
from mbh_jax import export
from mbh_jax.errors import UserError
from mbh_jax.interop import onnx_export, stablehlo_export
from mbh_jax.models import layers, norms
from mbh_jax.runtime.parallel import create_parallel
from mbh_jax.training import archive, bundle, network
from mbh_jax.training.checkpoints import Checkpoints
from mbh_jax.training.initialize import initialize_from, initialize_workdir
from mbh_jax.training.run_state import RunRecord

DOCS = run_commands.REPOSITORY / "docs" / "export.md"


def make_run(config: ConfigDict, path: Path) -> Path:
    """A run that was initialized and not trained; its masks hold several classes."""
    variables = jax.tree.map(lambda leaf: leaf + 0.05, network.create_network(config).init())
    initialize_workdir(config, epath.Path(path), variables, create_parallel("jit"))
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(run_commands.tiny_config(Path("/nowhere/data")), tmp_path_factory.mktemp("a"))


@pytest.fixture(scope="module")
def shared(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle; do not change it."""
    path = tmp_path_factory.mktemp("shared") / "net.zip"
    export.export(workdir, path)
    return path


@pytest.fixture(scope="module")
def program(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StableHLO export; do not change it."""
    path = tmp_path_factory.mktemp("program") / "net_hlo.zip"
    export.export(workdir, path, form="stablehlo")
    return path


def restore(path: Path) -> network.TrainedNetwork:
    return network.restore_network(epath.Path(path), create_parallel("jit"))


def slices(size: int = 64, number: int = 4) -> np.ndarray:
    """(number, size, size) int16 HU."""
    return np.ascontiguousarray(tiny_volume(0, number, size)[0].transpose(2, 1, 0))


def assert_same_arrays(found: object, expected: object) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_bundle_holds_the_weights_and_configuration_of_the_run(
    workdir: Path, shared: Path
) -> None:
    run = restore(workdir)
    copy = restore(shared)
    assert_same_arrays(copy.variables, run.variables)
    assert copy.step == run.step
    config = json.loads((workdir / "config.json").read_text())
    del config["data"]["dir"]
    with zipfile.ZipFile(shared) as file:
        assert file.testzip() is None
        assert json.loads(file.read("config.json")) == config
        weights = safetensors.numpy.load(file.read("weights.safetensors"))
        sums = [line.split("  ") for line in file.read("SHA256SUMS").decode().splitlines()]
        assert {name for _, name in sums} == {*file.namelist()} - {"SHA256SUMS"}
        assert all(hashlib.sha256(file.read(name)).hexdigest() == value for value, name in sums)
    kernel = run.variables["params"]["bridge"]["conv_0"]["kernel"]
    np.testing.assert_array_equal(weights["params/bridge/conv_0/kernel"], kernel)
    assert len(weights) == len(jax.tree.leaves(run.variables))


@pytest.mark.parametrize("form", ["bundle", "stablehlo"])
def test_the_same_network_gives_the_same_bytes(form: str, workdir: Path, tmp_path: Path) -> None:
    contents = []
    for name in ("a.zip", "b.zip"):
        export.export(workdir, tmp_path / name, form=form)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]


def test_a_bundle_predicts_what_its_run_predicts(workdir: Path, shared: Path) -> None:
    mask = mbh_jax.load(workdir).predict_mask(slices())
    assert len(np.unique(mask)) > 1
    np.testing.assert_array_equal(mbh_jax.load(shared).predict_mask(slices()), mask)


def test_a_run_starts_with_the_weights_of_a_bundle(
    workdir: Path, shared: Path, tmp_path: Path
) -> None:
    source = epath.Path(shared)
    config = network.read_config(source)  # What the command takes without --config.
    assert config.model == network.read_config(epath.Path(workdir)).model
    initialize_from(config, epath.Path(tmp_path / "new"), source, create_parallel("jit"))
    assert_same_arrays(restore(tmp_path / "new").variables, restore(workdir).variables)


def rewrite(shared: Path, path: Path, **changes: bytes | None) -> Path:
    """A bundle with other members, None for a missing one, and checksums that fit."""
    with zipfile.ZipFile(shared) as file:
        members = {name: file.read(name) for name in file.namelist() if name != "SHA256SUMS"}
    named = {name.replace("__", "."): data for name, data in changes.items()}
    archive.write(path, {k: v for k, v in (members | named).items() if v is not None})
    return path


def weights_without(shared: Path, name: str, replacement: np.ndarray | None) -> bytes:
    with zipfile.ZipFile(shared) as file:
        weights = safetensors.numpy.load(file.read("weights.safetensors"))
    del weights[name]
    if replacement is not None:
        weights[name] = replacement
    return safetensors.numpy.save(weights)


def flip_bit(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def compressed(shared: Path, path: Path) -> Path:
    with zipfile.ZipFile(shared) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return path


def changed_in_place(shared: Path, path: Path) -> Path:
    """A bundle whose config.json was edited, in a zip file that is whole."""
    with zipfile.ZipFile(shared) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'"image_size": 32', b'"image_size": 64'))
    return path


def facts(shared: Path, **changes: object) -> bytes:
    with zipfile.ZipFile(shared) as file:
        return json.dumps(json.loads(file.read("bundle.json")) | changes).encode()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


BIAS = "params/logits/bias"
DAMAGES: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "absent": (lambda good, path: path, "no such file"),
    "empty": (lambda good, path: written(path, b""), "not a whole zip file"),
    "text": (lambda good, path: written(path, b"not a zip\n" * 99), "not a whole zip file"),
    "half": (
        lambda good, path: written(path, good.read_bytes()[: good.stat().st_size // 2]),
        "not a whole zip file",
    ),
    "last byte": (lambda good, path: written(path, good.read_bytes()[:-1]), "not a whole zip"),
    "bit of a weight": (
        lambda good, path: written(path, flip_bit(good.read_bytes(), good.stat().st_size - 9000)),
        "Bad CRC-32 for file 'weights.safetensors'",
    ),
    "bit of the list": (
        lambda good, path: written(path, flip_bit(good.read_bytes(), good.stat().st_size - 30)),
        "not a",
    ),
    "edited": (changed_in_place, "config.json does not match its checksum"),
    "compressed": (compressed, "was compressed by another program"),
    "foreign": (lambda good, path: _foreign(path), "not a bundle (lacks README.md)"),
    "more": (
        lambda good, path: rewrite(good, path, virus__py=b"1"),
        "not a bundle (has other files too)",
    ),
    "no weights": (
        lambda good, path: rewrite(good, path, weights__safetensors=None),
        "lacks weights.safetensors",
    ),
    "no safetensors": (
        lambda good, path: rewrite(good, path, weights__safetensors=b"\x80\x04."),
        "weights.safetensors cannot be read",
    ),
    "an array less": (
        lambda good, path: rewrite(
            good, path, weights__safetensors=weights_without(good, BIAS, None)
        ),
        f"{BIAS} is missing in weights.safetensors and float32 (6,) by its config.json",
    ),
    "other shape": (
        lambda good, path: rewrite(
            good, path, weights__safetensors=weights_without(good, BIAS, np.zeros(5, np.float32))
        ),
        f"{BIAS} is float32 (5,) in",
    ),
    "other dtype": (
        lambda good, path: rewrite(
            good, path, weights__safetensors=weights_without(good, BIAS, np.zeros(6, np.float64))
        ),
        f"{BIAS} is float64 (6,) in",
    ),
    "no JSON": (lambda good, path: rewrite(good, path, config__json=b"{"), "config.json: damaged"),
    "no text": (lambda good, path: rewrite(good, path, config__json=b"\xff"), "damaged"),
    "a list": (lambda good, path: rewrite(good, path, bundle__json=b"[1]"), "bundle.json is not"),
    "newer": (
        lambda good, path: rewrite(good, path, bundle__json=facts(good, format=2)),
        "a bundle of format 2",
    ),
    "other classes": (
        lambda good, path: rewrite(good, path, bundle__json=facts(good, classes=["a", "b"])),
        "its classes are ['a', 'b']",
    ),
}


def _foreign(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("holiday.txt", "beach")
    return path


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_bundle_is_refused_in_one_line(kind: str, shared: Path, tmp_path: Path) -> None:
    damage, message = DAMAGES[kind]
    path = damage(shared, tmp_path / "bad.zip")
    with pytest.raises(UserError) as error:
        mbh_jax.load(path)
    assert message in str(error.value)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_bundle_holds_one_checkpoint(shared: Path, program: Path) -> None:
    with pytest.raises(UserError, match=r"net\.zip holds the best checkpoint, not the last"):
        mbh_jax.load(shared, checkpoint="last")
    with pytest.raises(UserError, match="not a bundle"):
        mbh_jax.load(program)


def run(*arguments: object) -> int:
    """The exit code of the command."""
    try:
        export.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_what_cannot_be_written_ends_in_one_line(
    workdir: Path, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = written(tmp_path / "there.zip", b"kept")
    (tmp_path / "folder.zip").mkdir()
    new = tmp_path / "new.zip"
    cases = [
        ([f"--model={workdir}", f"--output={there}"], "exists: give --overwrite"),
        ([f"--model={workdir}", f"--output={tmp_path / 'folder.zip'}"], "is a folder"),
        ([f"--model={workdir}", f"--output={tmp_path / 'new.onnx'}"], "must end in .zip"),
        ([f"--model={workdir}", f"--output={there / 'new.zip'}"], "there.zip: File exists"),
        ([f"--model={tmp_path}", f"--output={new}"], "holds no run"),
        ([f"--model={tmp_path / 'no.zip'}", f"--output={new}"], "no such file"),
        ([f"--model={shared}", f"--output={new}"], "is a bundle already"),
        (
            [f"--model={shared}", f"--output={new}", "--format=stablehlo", "--licence=MIT"],
            "has a model card with a licence",
        ),
    ]
    for arguments, message in cases:
        assert run(*arguments) == 1
        lines = capsys.readouterr().err.splitlines()
        assert message in lines[-1] and lines[-1].startswith("error: "), lines
    assert {path.name for path in tmp_path.iterdir()} == {"there.zip", "folder.zip"}
    assert there.read_bytes() == b"kept"
    assert run(f"--model={workdir}", f"--output={there}", "--overwrite") == 0
    assert "not a medical device" in capsys.readouterr().out
    assert_same_arrays(restore(there).variables, restore(workdir).variables)


def test_a_full_disk_leaves_the_old_file(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = written(tmp_path / "net.zip", b"old")
    write = zipfile.ZipFile.writestr

    def full(self: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
        if entry.filename == "weights.safetensors":
            raise OSError(28, os.strerror(28))
        write(self, entry, data)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    assert run(f"--model={workdir}", f"--output={old}", "--overwrite") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["net.zip"]
    assert old.read_bytes() == b"old"


def test_the_model_card_says_what_the_run_knows(tiny_dataset_dir: Path, tmp_path: Path) -> None:
    config = run_commands.tiny_config(tiny_dataset_dir, **{"eval.split": "test"})
    path = make_run(config, tmp_path / "trial")
    run_commands.evaluate_split(config, path)
    summary = json.loads((path / "evaluation/test/summary.json").read_text())
    # As if it had been trained for no step on this dataset.
    training = run_commands.training_of(config)
    state = training.init().with_variables(restore(path).variables)
    with Checkpoints(path, training.parallel) as checkpoints:
        record = RunRecord.new(0).to_json(
            config, {"dataset": summary["provenance"]["dataset"], "extra_dataset": None}
        )
        checkpoints.save_last(state, 0, record)
    # Of another step: these are results of other weights.
    other = path / "evaluation/validation"
    other.mkdir()
    (other / "summary.json").write_text(json.dumps(summary | {"checkpoint_step": 7, "split": "x"}))

    export.export(path, tmp_path / "trial.zip", licence="CC BY 4.0")
    card = bundle.read_card(tmp_path / "trial.zip")
    assert "not a medical device" in card and "Licence of the weights: CC BY 4.0" in card
    rows = {line.split()[0]: line.split() for line in card.splitlines() if line.startswith("    ")}
    for name in ("EDH", "IPH", "IVH", "SAH", "SDH"):
        assert f"{summary['volume_ml'][name]['reference']:.1f}" in rows[name]
        assert f"{summary['volume_ml'][name]['false']:.1f}" in rows[name]
    assert "`test`" not in card or "of the same dataset" in card
    assert "Split `test` of the same dataset" in card and "Split `x`" not in card
    assert summary["provenance"]["dataset"] in card
    (metadata,) = tiny_dataset_dir.rglob("metadata.json")
    volumes = json.loads(metadata.read_text())["volumes"]
    for split in ("train", "validation", "test"):
        chosen = [volume for volume in volumes if volume["split"] == split]
        patients = {volume["patient_id"] for volume in chosen}
        num_slices = sum(volume["shape"][0] for volume in chosen)
        assert f"| {split} | {len(patients)} | {len(chosen)} | {num_slices} |" in card
    assert not any(volume["volume_id"] in card for volume in volumes)
    assert str(tiny_dataset_dir) not in card
    (path / "evaluation/test/summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json: damaged: evaluate again"):
        export.export(path, tmp_path / "again.zip")


def test_the_program_runs_without_this_package(
    workdir: Path, program: Path, tmp_path: Path
) -> None:
    inputs = {"small": slices(40, 3), "large": slices(64, 2)}
    np.savez(tmp_path / "hu.npz", **inputs)
    (loader,) = (
        block.split("```")[0]
        for block in DOCS.read_text().split("```python\n")[1:]
        if "program.jax_export" in block
    )
    assert loader == stablehlo_export.LOADER
    script = (
        "import sys\n"
        "packages = ['mbh_jax', 'configs', 'data_prep', 'flax', 'ml_collections', 'safetensors']\n"
        "sys.modules.update(dict.fromkeys(packages))  # Importing one of them fails.\n"
        f"{loader}\n"
        f"predict = load({str(program)!r})\n"
        f"hu = np.load({str(tmp_path / 'hu.npz')!r})\n"
        "labels = {name: predict(hu[name][..., None]) for name in hu.files}\n"
        f"np.savez({str(tmp_path / 'labels.npz')!r}, **labels)\n"
    )
    subprocess.run([sys.executable, "-I", "-c", script], check=True, cwd=tmp_path)
    labels = np.load(tmp_path / "labels.npz")
    trained = restore(workdir)
    for name, hu in inputs.items():
        expected = jax.jit(trained.network.predict)(trained.variables, hu[..., None])
        assert labels[name].dtype == np.uint8 and len(np.unique(expected)) > 1
        np.testing.assert_array_equal(labels[name], expected)


def test_accelerators_get_plain_convolutions(workdir: Path) -> None:
    made = restore(workdir).network
    convolutions = 0

    def count(
        call: Callable, arguments: tuple, options: dict, context: nn.module.InterceptorContext
    ):
        nonlocal convolutions
        if isinstance(context.module, layers.Conv) and context.module.kernel_size > 1:
            convolutions += 1
        return call(*arguments, **options)

    with nn.intercept_methods(count):
        made.shapes()
    for platform in ("cuda", "tpu"):
        text = stablehlo_export.export_program(made, platforms=(platform,)).mlir_module()
        assert text.count("stablehlo.convolution") == convolutions > 0
        assert "mbh_jax/" not in text
    assert stablehlo_export.export_program(made).platforms == ("cpu", "cuda", "tpu")


def test_an_exported_program_names_no_folder_of_this_machine(program: Path) -> None:
    data = program.read_bytes()
    for folder in (run_commands.REPOSITORY, Path(sys.prefix), Path("/nowhere/data")):
        assert str(folder).encode() not in data


def test_onnx_gives_the_same_logits_and_labels(tmp_path: Path) -> None:
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed: see docs/export.md")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    head = make_head(0, 1, 32, "even", max_slices=6)
    hu = head.hu.transpose(2, 1, 0)[..., np.newaxis].astype(np.int16)
    for norm in norms.NORMS:
        config = run_commands.tiny_config(Path("data"), model__norm=norm)
        path = make_run(config, tmp_path / norm)
        export.export(path, tmp_path / f"{norm}.onnx", form="onnx")
        session = onnxruntime.InferenceSession(tmp_path / f"{norm}.onnx")
        trained = restore(path)
        expected = np.asarray(trained.network.logits(trained.variables, hu))
        for part in (slice(0, 1), slice(0, len(hu))):
            (found,) = session.run(["logits"], {"hu": hu[part]})
            np.testing.assert_allclose(found, expected[part], rtol=0, atol=1e-3)
            np.testing.assert_array_equal(found.argmax(-1), expected[part].argmax(-1))
        assert "not a medical device" in session.get_modelmeta().description


def test_onnx_that_cannot_be_written_ends_in_one_line(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(UserError, match="needs jax2onnx and onnxruntime"):
        export.export(workdir, tmp_path / "net.onnx", form="onnx")
    for name in ("jax2onnx", "onnxruntime"):  # Not reached.
        monkeypatch.setitem(sys.modules, name, sys)
    config = run_commands.tiny_config(Path("data"), model__dtype="bfloat16")
    with pytest.raises(UserError, match="computes in bfloat16"):
        export.export(make_run(config, tmp_path / "run"), tmp_path / "net.onnx", form="onnx")
    assert not (tmp_path / "net.onnx").exists()


def test_onnx_with_other_results_is_refused() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 4, 4, 6))
    assert onnx_export.compare(logits + 1e-4, logits) == pytest.approx(1e-4)
    for wrong in (logits + 0.1, logits[..., ::-1], np.full_like(logits, np.nan)):
        with pytest.raises(UserError, match="gives other results than JAX"):
            onnx_export.compare(wrong, logits)
