"""The same FlexUNet, loss and optimizer in several frameworks: ours, and what it is compared with.

Each module has a function `build(workload, variant) -> Implementation`. Importing this package
imports none of the frameworks.
"""

import dataclasses
import importlib
from collections.abc import Callable

from benchmarks.workload import Workload

IMPLEMENTATIONS = {
    "ours": ("ours", ""),
    "flax": ("flax_linen", ""),
    "torch": ("torch_unet", ""),
    "torch_compile": ("torch_unet", "compile"),
    "onnx": ("onnx_unet", ""),
    "keras": ("keras_unet", ""),
    "keras_xla": ("keras_unet", "xla"),
}
"""Module and variant of each implementation, by its name on the command line."""


@dataclasses.dataclass(frozen=True)
class Implementation:
    """A workload in one framework, built and ready to run in this process.

    Attributes:
        num_parameters: number of trained parameters, counted by the framework.
        loss: mean cross-entropy of the workload's batch with its initial weights, dropout off; all
            implementations must agree on it.
        step: starts one step of the task.
        wait: returns when all started steps are done; raises if the loss is not finite.
        versions: {package: version} of the framework.
        device: name of the device it runs on.
        peak_device_bytes: returns the peak of the device's memory, None on a CPU.
        program: returns the text of the compiled training step; None where there is none.
    """

    num_parameters: int
    loss: float
    step: Callable[[], None]
    wait: Callable[[], None]
    versions: dict[str, str]
    device: str
    peak_device_bytes: Callable[[], int | None]
    program: Callable[[], str | None] | None = None


def build(name: str, workload: Workload) -> Implementation:
    """Builds the implementation of that name; imports only its framework."""
    module, variant = IMPLEMENTATIONS[name]
    return importlib.import_module(f"benchmarks.baselines.{module}").build(workload, variant)
