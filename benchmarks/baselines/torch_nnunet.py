"""nnU-Net's own 2D networks in PyTorch, and its layers by the names of the workload."""

import re

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from benchmarks.workload import Workload


def create_network(workload: Workload) -> nn.Module:
    """nnU-Net's network of a workload, without deep supervision and the heads that it needs."""
    options = workload.network
    stages = options["num_stages"]
    common = {
        "input_channels": workload.channels,
        "n_stages": stages,
        "features_per_stage": [
            min(options["base_filters"] * 2**i, options["max_filters"]) for i in range(stages)
        ],
        "conv_op": nn.Conv2d,
        "kernel_sizes": 3,
        "strides": [1] + [2] * (stages - 1),
        "num_classes": workload.num_classes,
        "conv_bias": True,
        "norm_op": nn.InstanceNorm2d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": False,
    }
    if options["encoder"] == "residual":
        blocks = [(1, 3, 4, 6)[min(i, 3)] for i in range(stages)]
        network = ResidualEncoderUNet(
            **common, n_blocks_per_stage=blocks, n_conv_per_stage_decoder=[1] * (stages - 1)
        )
    else:
        network = PlainConvUNet(
            **common, n_conv_per_stage=[2] * stages, n_conv_per_stage_decoder=[2] * (stages - 1)
        )
    # Heads of the other resolutions are there, but not used.
    heads = network.decoder.seg_layers
    network.decoder.seg_layers = nn.ModuleList([nn.Identity() for _ in heads[:-1]] + [heads[-1]])
    return network


def convolutions(network: nn.Module) -> dict[str, nn.Module]:
    """{name in the workload: layer} of all layers with kernels."""
    found: dict[str, nn.Module] = {}
    for path, module in network.named_modules():
        # Some modules are registered under a second name, as in `all_modules`.
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and "all_modules" not in path:
            found[_name(path, len(network.decoder.stages))] = module
    return found


def _name(path: str, num_decoders: int) -> str:
    """The workload's name of a module of nnU-Net; its decoders are numbered from the deepest."""
    if path.startswith("decoder.seg_layers"):
        return "logits"
    if path.startswith("encoder.stem"):
        return "stem/conv"
    stage, *numbers = [int(number) for number in re.findall(r"\.(\d+)", path)]
    if path.startswith("decoder"):
        level = num_decoders - 1 - stage
        return f"up_{level}" if "transpconvs" in path else f"decoder_{level}/conv_{numbers[0]}/conv"
    if ".blocks." not in path:
        return f"encoder_{stage}/conv_{numbers[-1]}/conv"
    part = "skip" if ".skip." in path else "conv_0" if ".conv1." in path else "conv_1"
    return f"encoder_{stage}/block_{numbers[0]}/{part}/conv"
