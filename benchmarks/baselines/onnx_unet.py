"""FlexUNet as an ONNX model in onnxruntime, exported from ours as `mbh_jax.export` does.

Its Python needs this package and the extra `onnx` (docs/export.md). Inference only, on CPUs.
"""

import functools
import os

import jax
import jax.numpy as jnp
import jax2onnx
import numpy as np
import onnxruntime

from benchmarks.baselines import Implementation, jax_common, ours
from benchmarks.workload import Workload
from mbh_jax.models.ops.convolution import only_plain_convolutions
from mbh_jax.training.network import create_network


def build(workload: Workload, variant: str) -> Implementation:
    """The network from HU to label maps.

    Raises:
        ValueError: the task is not inference.
    """
    if workload.task != "inference":
        raise ValueError("onnxruntime does not train: only inference can be measured")
    network = create_network(ours.configuration(workload))
    variables = jax_common.with_weights(network.shapes(), workload)
    num_parameters = jax_common.num_parameters(variables)
    scans = workload.scans()
    with only_plain_convolutions():
        model = jax2onnx.to_onnx(
            functools.partial(network.logits, variables),
            inputs=[jax.ShapeDtypeStruct(scans.shape, jnp.int16)],
            input_names=["hu"],
            output_names=["logits"],
        )
    del variables
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    content = model.SerializeToString()
    del model
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    del content

    def logits() -> np.ndarray:
        return session.run(["logits"], {"hu": scans})[0]

    def step() -> None:
        logits().argmax(-1).astype(np.uint8)

    loss = jax_common.mean_cross_entropy(jnp.asarray(logits()), workload.labels().astype(np.int32))
    return Implementation(
        num_parameters=num_parameters,
        loss=loss,
        step=step,
        wait=lambda: None,
        versions={"onnxruntime": onnxruntime.__version__},
        device=f"{options.intra_op_num_threads} threads",
        peak_device_bytes=lambda: None,
    )
