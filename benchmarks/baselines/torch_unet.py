"""The networks in PyTorch: channels_last, fused Adam; the variant "compile" adds torch.compile.

FlexUNet is written here; those of nnU-Net are nnU-Net's own (`dynamic_network_architectures`).

bfloat16 is autocast's. On a GPU float32 may use TF32, as in JAX.
"""

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.baselines import Implementation
from benchmarks.workload import Layer, Workload

_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "silu": nn.SiLU}


def _block(layers: list[Layer], norm: str, activation: str) -> nn.Sequential:
    parts: list[nn.Module] = []
    for layer in layers:
        side, _, channels, features = layer.kernel_shape
        parts.append(nn.Conv2d(channels, features, side, padding="same", dilation=layer.dilation))
        parts.append(_ACTIVATIONS[activation](inplace=True))
        if norm == "batch":
            parts.append(nn.BatchNorm2d(features, eps=1e-3, momentum=0.01))
        elif norm == "group":
            parts.append(nn.GroupNorm(min(8, features), features, eps=1e-3))
        if layer.dropout_rate:
            parts.append(nn.Dropout(layer.dropout_rate))
    return nn.Sequential(*parts)


class _FlexUNet(nn.Module):
    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.patch_size: int = workload.network["patch_size"]
        by_block: dict[str, list[Layer]] = {}
        for layer in workload.layers():
            by_block.setdefault(layer.name.split("/")[0], []).append(layer)
        self.parts = nn.ModuleDict()
        for name, layers in by_block.items():
            _, _, channels, features = layers[0].kernel_shape
            if name.startswith("up_"):
                self.parts[name] = nn.ConvTranspose2d(channels, features, 2, 2)
            elif name == "logits":
                self.parts[name] = nn.Conv2d(channels, features, 1)
            else:
                network = workload.network
                self.parts[name] = _block(layers, network["norm"], network["activation"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        x = _to_patches(x, self.patch_size)
        for name, part in self.parts.items():
            if name.startswith("up_"):
                x = torch.cat([part(x), skips.pop()], 1)
            elif name.startswith("encoder_"):
                x = part(x)
                skips.append(x)
                x = F.max_pool2d(x, 2)
            else:
                x = part(x)
        return _from_patches(x, self.patch_size)

    def convolutions(self) -> dict[str, nn.Module]:
        """{name in the workload: layer} of all layers with kernels."""
        found: dict[str, nn.Module] = {}
        for name, part in self.parts.items():
            if isinstance(part, nn.Sequential):
                convs = [layer for layer in part if isinstance(layer, nn.Conv2d)]
                found |= {f"{name}/conv_{i}": layer for i, layer in enumerate(convs)}
            else:
                found[name] = part
        return found


def _to_patches(x: torch.Tensor, size: int) -> torch.Tensor:
    """(B, C, H, W) -> (B, size * size * C, H / size, W / size), channels as ours has them."""
    if size == 1:
        return x
    batch, channels, height, width = x.shape
    x = F.pixel_unshuffle(x, size).reshape(batch, channels, size * size, -1)
    return x.transpose(1, 2).reshape(batch, -1, height // size, width // size)


def _from_patches(x: torch.Tensor, size: int) -> torch.Tensor:
    """The inverse of `_to_patches`."""
    if size == 1:
        return x
    batch, _, height, width = x.shape
    x = x.reshape(batch, size * size, -1, height * width).transpose(1, 2)
    return F.pixel_shuffle(x.reshape(batch, -1, height, width), size)


def _convolutions(network: nn.Module) -> dict[str, nn.Module]:
    if isinstance(network, _FlexUNet):
        return network.convolutions()
    from benchmarks.baselines import torch_nnunet

    return torch_nnunet.convolutions(network)


def _create_network(workload: Workload) -> nn.Module:
    if workload.network["name"] == "flexunet":
        return _FlexUNet(workload)
    from benchmarks.baselines import torch_nnunet

    return torch_nnunet.create_network(workload)


def _set_weights(network: nn.Module, workload: Workload) -> None:
    convolutions = _convolutions(network)
    with torch.no_grad():
        for layer, kernel in workload.weights():
            axes = (3, 2, 0, 1) if layer.kind == "conv" else (2, 3, 0, 1)
            module = convolutions[layer.name]
            module.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel.transpose(axes))))
            if layer.has_bias:
                module.bias.zero_()


def build(workload: Workload, variant: str) -> Implementation:
    """The eager network, or compiled by TorchInductor if `variant` is "compile"."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    if on_gpu:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    else:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    network = _create_network(workload)
    _set_weights(network, workload)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    images = torch.from_numpy(workload.images()).permute(0, 3, 1, 2).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(workload.labels().astype(np.int64)).to(device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=workload.dtype == "bfloat16")
    network.eval()
    with torch.inference_mode(), autocast:
        first_loss = float(F.cross_entropy(network(images).float(), labels))

    compiler = torch.compile if variant == "compile" else lambda function: function
    if workload.task == "inference":
        run = _predictor(network, images, autocast, compiler)
    else:
        run = _trainer(network, (images, labels), autocast, compiler, workload.optimizer)
    newest = images

    def step() -> None:
        nonlocal newest
        newest = run()

    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize()
        if workload.task == "train" and not math.isfinite(float(newest)):
            raise FloatingPointError("the loss is not finite")

    return Implementation(
        num_parameters=sum(p.numel() for p in network.parameters()),
        loss=first_loss,
        step=step,
        wait=wait,
        versions={"torch": torch.__version__},
        device=torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads",
        peak_device_bytes=lambda: torch.cuda.max_memory_allocated() if on_gpu else None,
    )


def _predictor(
    network: nn.Module,
    images: torch.Tensor,
    autocast: torch.autocast,
    compiler: Callable[[Callable], Callable],
) -> Callable[[], torch.Tensor]:
    """A function that returns the label maps of the images, (B, H, W) uint8."""
    predict = compiler(lambda images: network(images).argmax(1).to(torch.uint8))

    def run() -> torch.Tensor:
        with torch.inference_mode(), autocast:
            return predict(images)

    return run


def _trainer(
    network: nn.Module,
    batch: tuple[torch.Tensor, torch.Tensor],
    autocast: torch.autocast,
    compiler: Callable[[Callable], Callable],
    options: Mapping[str, Any],
) -> Callable[[], torch.Tensor]:
    """A function that runs one Adam step on a batch of images and labels; it returns the loss."""
    network.train()
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(
        parameters,
        options["learning_rate"],
        (options["beta1"], options["beta2"]),
        options["epsilon"],
        fused=True,
    )

    @compiler
    def mean_loss(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with autocast:
            logits = network(images)
        return F.cross_entropy(logits.float(), labels)

    def run() -> torch.Tensor:
        loss = mean_loss(*batch)
        loss.backward()
        if options["clip_value"]:
            nn.utils.clip_grad_value_(parameters, options["clip_value"])
        if options["clip_norm"]:
            nn.utils.clip_grad_norm_(parameters, options["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return run
