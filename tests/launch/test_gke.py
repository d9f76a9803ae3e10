"""launch/gke_jobset.yaml for GPUs and for TPUs, and the files that its image is built from."""

import configparser
import re
import subprocess
from typing import Any

import pytest
import yaml
from launchers import REPOSITORY

from mbh_jax import errors

LAUNCH = REPOSITORY / "launch"
MANIFEST = LAUNCH / "gke_jobset.yaml"


def manifest(accelerator: str) -> dict[str, Any]:
    """What kubectl gets: for TPUs the output of the command at the top of the file."""
    text = MANIFEST.read_text()
    if accelerator == "tpu":
        command = re.search(r"(sed .*) \| kubectl", text)
        assert command is not None
        sed = ["bash", "-c", command[1]]
        text = subprocess.run(
            sed, cwd=REPOSITORY, check=True, capture_output=True, text=True
        ).stdout
    return yaml.safe_load(text)


@pytest.fixture(params=["gpu", "tpu"])
def jobset(request: pytest.FixtureRequest) -> dict[str, Any]:
    return manifest(request.param)


def job_of(jobset: dict[str, Any]) -> dict[str, Any]:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    return replicated["template"]["spec"]


def arguments_of(jobset: dict[str, Any]) -> list[str]:
    (container,) = job_of(jobset)["template"]["spec"]["containers"]
    return container["args"]


def test_job_is_valid_by_the_schema_of_kubernetes(jobset: dict[str, Any]) -> None:
    validator = pytest.importorskip(
        "kubernetes_validate", reason="pip install kubernetes-validate for the schemas"
    )
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", **replicated["template"]}
    validator.validate(job | {"metadata": {"name": "train"}}, "1.31", strict=True)


def test_jobset_is_valid_by_its_models(jobset: dict[str, Any]) -> None:
    models = pytest.importorskip(
        "kubeflow_trainer_api.models", reason="pip install kubeflow-trainer-api for the models"
    )
    # The models represent quantities differently.
    pod = job_of(jobset)["template"]["spec"]
    del pod["containers"][0]["resources"], pod["volumes"][1]["emptyDir"]["sizeLimit"]
    read = models.JobsetV1alpha2JobSet.model_validate(jobset)
    written = read.to_dict()
    assert written["spec"]["failurePolicy"] == jobset["spec"]["failurePolicy"]
    assert written["spec"]["replicatedJobs"] == jobset["spec"]["replicatedJobs"]


def test_errors_end_the_set_and_everything_else_restarts_it(jobset: dict[str, Any]) -> None:
    job, policy = job_of(jobset), jobset["spec"]["failurePolicy"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # Else podFailurePolicy is refused.
    assert job["backoffLimit"] == 0
    actions = {
        code: rule["action"]
        for rule in job["podFailurePolicy"]["rules"]
        for code in rule["onExitCodes"]["values"]
    }
    assert actions == {
        errors.EXIT_ERROR: "FailJob",
        2: "FailJob",
        errors.EXIT_LOST_PROCESS: "Count",
        errors.EXIT_STOPPED: "Count",
    }
    (rule,) = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert policy["maxRestarts"] > 0
    assert policy["restartStrategy"] == "BlockingRecreate"


def test_coordinator_of_gpu_processes_is_the_first_pod() -> None:
    jobset = manifest("gpu")
    name, job = jobset["metadata"]["name"], job_of(jobset)
    (replicated,) = jobset["spec"]["replicatedJobs"]
    hosts = job["completions"]
    assert job["parallelism"] == hosts
    assert arguments_of(jobset)[-4:] == [
        "--distributed",
        f"--coordinator={name}-{replicated['name']}-0-0.{name}:8476",
        f"--num_processes={hosts}",
        "--process_id=$(JOB_COMPLETION_INDEX)",
    ]


def test_number_of_tpu_hosts_fits_the_topology() -> None:
    job = job_of(manifest("tpu"))
    pod = job["template"]["spec"]
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = pod["containers"][0]["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == rows * columns / chips
    assert arguments_of(manifest("tpu"))[-1] == "--distributed"


def test_batch_of_the_example_divides_over_its_devices(jobset: dict[str, Any]) -> None:
    job = job_of(jobset)
    (devices,) = job["template"]["spec"]["containers"][0]["resources"]["limits"].values()
    batch = next(
        int(flag.split("=")[1])
        for flag in arguments_of(jobset)
        if flag.startswith("--config.train.batch_size=")
    )
    assert batch % (devices * job["parallelism"]) == 0


def test_image_has_every_file_that_is_installed() -> None:
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    assert all((REPOSITORY / name).exists() for name in kept)
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    packages = setup["options.packages.find"]["include"].split()
    metadata = [setup["metadata"][key] for key in ("long_description", "license_files")]
    needed = {name.removesuffix("*") for name in packages}
    needed |= {name.removeprefix("file: ") for name in metadata}
    assert needed | {"setup.cfg", "pyproject.toml", "constraints.txt"} <= kept
    dockerfile = (LAUNCH / "Dockerfile").read_text()
    default = re.search(r"^ARG ACCELERATOR=(\w+)", dockerfile, re.MULTILINE)
    assert default is not None and default[1] in setup["options.extras_require"]
