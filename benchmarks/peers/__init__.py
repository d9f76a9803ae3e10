"""The same FlexUNet, loss and optimizer in several frameworks; none is imported by the package.

Each module has `build(workload, variant) -> Peer`. `PEERS` maps the names of the command line.
"""

import dataclasses
import importlib
from collections.abc import Callable

from benchmarks.workload import Workload

PEERS = {
    "ours": ("ours", ""),
    "flax": ("flax_obvious", ""),
    "torch": ("torch_unet", ""),
    "torch_compile": ("torch_unet", "compile"),
    "keras": ("keras_unet", ""),
    "keras_xla": ("keras_unet", "xla"),
}
"""Module and variant of each peer, by its name on the command line."""


@dataclasses.dataclass(frozen=True)
class Peer:
    """A workload, built and ready to run in this process.

    Attributes:
        num_parameters: trained numbers, counted by the framework.
        loss: mean cross-entropy of the workload's batch with its initial weights, dropout off: what
            all peers must agree on.
        step: starts one step of the task.
        wait: returns when all steps are done; raises if they did not end well.
        versions: of the framework's packages.
        device: what it runs on.
        peak_device_bytes: the most device memory it held, or None where that is the host's.
        program: gives the text of the compiled training step; None where the framework does not.
    """

    num_parameters: int
    loss: float
    step: Callable[[], None]
    wait: Callable[[], None]
    versions: dict[str, str]
    device: str
    peak_device_bytes: Callable[[], int | None]
    program: Callable[[], str | None] | None = None


def build(name: str, workload: Workload) -> Peer:
    """Builds the peer of that name; only its own framework is imported."""
    module, variant = PEERS[name]
    return importlib.import_module(f"benchmarks.peers.{module}").build(workload, variant)
