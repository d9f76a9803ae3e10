"""The command as a user runs it: what it prints, how it ends, and what it does not need."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )


def main(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "mbh_jax.main", *arguments)


@pytest.mark.slow
def test_smoke_recipe_trains_and_evaluates(tiny_dataset_dir: Path, tmp_path: Path) -> None:
    flags = [
        "--config=configs/smoke.py",
        f"--config.data.dir={tiny_dataset_dir}",
        f"--workdir={tmp_path / 'run'}",
        "--config.train.num_epochs=1",
    ]
    trained = main(*flags)
    assert trained.returncode == 0, trained.stderr
    assert "validation: " in trained.stdout
    # The workdir knows the rest.
    evaluated = main(f"--workdir={tmp_path / 'run'}", "--mode=evaluate")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "test: " in evaluated.stdout
    assert "(counts background: for comparison only)" in evaluated.stdout


SMOKE = "--config=configs/smoke.py"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no recipe: give --config=configs/flexunet.py"),
        (["--config=configs/no_such.py"], "configs/no_such.py is no recipe"),
        ([SMOKE, "--config.train.batch=3"], "did you mean train.batch_size?"),
        ([SMOKE, "--config.data.dir=/no/such/folder"], "make one with python -m data_prep"),
        # A recipe that leaves out keys of its loss, whose defaults they then have.
        (["--config=configs/strong.py", "--config.data.dir=/no/such"], "make one with python -m"),
        ([SMOKE, "stray"], "unexpected argument 'stray'"),
        ([SMOKE, "--num_processes=2"], "belong to --distributed"),
        ([SMOKE, "--workdir=s3://bucket/run"], "a local folder or gs://BUCKET/FOLDER"),
        ([SMOKE, "--workdir="], "--workdir is empty: give a path"),
        ([SMOKE, "--workdir=no\\such"], "a folder whose path holds \\: give another --workdir"),
        ([SMOKE, "--begin_with=/no/such/run"], "--begin_with is now called --init_from"),
        ([SMOKE, "--config.loss.dice_weight=1"], "belongs to cross_entropy_dice, and loss.name is"),
        (
            [SMOKE, "--config.train.batch_size=two"],
            "batch_size=two: invalid literal",
        ),
        (["--workdir=/no/such/run"], "/no/such/run holds no run (no config.json)"),
        (["--workdir=w", "--init_from=/no/such/run"], "/no/such/run holds no run"),
        ([SMOKE, "--mode=infer"], "value should be one of <train|evaluate>"),
    ],
)
def test_wrong_input_ends_in_one_line(arguments: list[str], message: str) -> None:
    done = main(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_tilde_is_the_home_folder(
    tmp_path: Path, tiny_dataset_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(tiny_dataset_dir, tmp_path / "data")
    (tmp_path / "data" / "head_ct" / "1.0.0" / "dataset_info.json").write_text("{")
    (tmp_path / "recipe.py").write_text("from configs.smoke import get_config\n")
    done = main("--config=~/recipe.py", "--config.data.dir=~/data", "--workdir=~/run")
    assert f"{tmp_path}/data/head_ct/1.0.0/dataset_info.json: damaged" in done.stderr
    done = main("--workdir=~/run")
    assert f"{tmp_path}/run holds no run" in done.stderr
    assert not (REPOSITORY / "~").exists()


def test_everything_but_the_input_pipeline_imports_without_tensorflow() -> None:
    script = textwrap.dedent(
        """
        import importlib, pkgutil, sys

        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("tensorflow", "tensorflow_datasets"):
                    raise ModuleNotFoundError(f"{name} is not installed", name=name)

        sys.meta_path.insert(0, Refuse())
        import mbh_jax
        names = [m.name for m in pkgutil.walk_packages(mbh_jax.__path__, "mbh_jax.")]
        needs = []
        for name in names:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                needs.append(name)
        print(len(names) > 20, sorted(needs))
        """
    )
    done = run("-c", script)
    assert done.stdout.strip() == "True ['mbh_jax.data.pipeline', 'mbh_jax.data.records']", (
        done.stdout + done.stderr
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_run_whose_output_nobody_can_write_is_whole(
    tiny_dataset_dir: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "mbh_jax.main", "--config=configs/smoke.py"]
    flags = [
        f"--config.data.dir={tiny_dataset_dir}",
        f"--workdir={tmp_path}",
        "--config.train.num_epochs=1",
    ]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*command, *flags], stdout=full, stderr=full, check=False, cwd=REPOSITORY
        )
    assert done.returncode == 0
    assert (tmp_path / "evaluation" / "validation" / "summary.json").is_file()
