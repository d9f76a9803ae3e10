"""FlexUNet in plain Flax: the layers of `flax.linen` without any of the package's optimisations."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from benchmarks.baselines import Implementation, jax_common
from benchmarks.workload import Layer, Workload

PyTree = Any


class _Block(nn.Module):
    """Two convolutions, the first followed by dropout."""

    layers: tuple[Layer, Layer]
    norm: str
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i, layer in enumerate(self.layers):
            side, _, _, features = layer.kernel_shape
            x = nn.Conv(
                features,
                (side, side),
                kernel_dilation=layer.dilation,
                dtype=self.dtype,
                name=f"conv_{i}",
            )(x)
            x = getattr(nn, self.activation)(x)
            if self.norm == "batch":
                x = nn.BatchNorm(not train, 0.99, 1e-3, dtype=self.dtype, name=f"norm_{i}")(x)
            elif self.norm == "group":
                x = nn.GroupNorm(min(8, features), epsilon=1e-3, dtype=self.dtype)(x)
            x = nn.Dropout(layer.dropout_rate, deterministic=not train)(x)
        return x


class _UNet(nn.Module):
    """The whole network; returns float32 logits (B, H, W, classes)."""

    workload: Workload

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        work = self.workload
        dtype = jnp.dtype(work.dtype)
        by_block: dict[str, list[Layer]] = {}
        for layer in work.layers():
            by_block.setdefault(layer.name.split("/")[0], []).append(layer)
        skips = []
        for name, layers in by_block.items():
            if name.startswith("up_"):
                features = layers[0].kernel_shape[3]
                x = nn.ConvTranspose(features, (2, 2), (2, 2), dtype=dtype, name=name)(x)
                x = jnp.concatenate([x, skips.pop()], axis=-1)
            elif name == "logits":
                x = nn.Conv(work.num_classes, (1, 1), name=name)(x.astype(jnp.float32))
            else:
                norm, activation = work.network["norm"], work.network["activation"]
                x = _Block(tuple(layers), norm, activation, dtype, name=name)(x, train)
                if name.startswith("encoder_"):
                    skips.append(x)
                    x = nn.max_pool(x, (2, 2), (2, 2))
        return x


def build(workload: Workload, variant: str) -> Implementation:
    """One jitted step: the forward pass, or gradients and optax update with donated state."""
    model = _UNet(workload)
    images, labels = jnp.asarray(workload.images()), jnp.asarray(workload.labels(), jnp.int32)
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), images, False))
    variables = jax_common.with_weights(abstract, workload)
    for name, layer in variables["params"].items():
        if name.startswith("up_"):  # `nn.ConvTranspose` rotates its kernel by 180 degrees.
            layer["kernel"] = layer["kernel"][::-1, ::-1]
    forward = jax.jit(lambda variables, images: model.apply(variables, images, False))
    first_loss = jax_common.mean_cross_entropy(forward(variables, images), labels)
    num_parameters = jax_common.num_parameters(variables)
    if workload.task == "inference":

        @jax.jit
        def predict(variables: PyTree, images: jax.Array) -> jax.Array:
            return model.apply(variables, images, False).argmax(-1).astype(jnp.uint8)

        run = functools.partial(predict, variables, images)
        return jax_common.as_implementation(num_parameters, first_loss, run)

    train, optimizer = _train_step(model, workload)
    params = variables.pop("params")
    state = (params, variables, optimizer.init(params))
    del params, variables  # The first step takes over their memory.
    number = 0

    def step() -> dict[str, jax.Array]:
        nonlocal state, number
        number += 1
        state, loss = train(state, images, labels, jax.random.key(number))
        return {"loss": loss, "moments": state[2]}

    return jax_common.as_implementation(num_parameters, first_loss, step)


def _train_step(
    model: _UNet, workload: Workload
) -> tuple[Callable[..., tuple], optax.GradientTransformation]:
    """The compiled `(state, images, labels, key) -> (state, loss)`, and its optimizer."""
    options = workload.optimizer
    chain = []
    if options["clip_value"]:
        chain.append(optax.clip(options["clip_value"]))
    if options["clip_norm"]:
        chain.append(optax.clip_by_global_norm(options["clip_norm"]))
    moments = (options["beta1"], options["beta2"], options["epsilon"])
    optimizer = optax.chain(*chain, optax.adam(options["learning_rate"], *moments))

    def train(state: tuple, images: jax.Array, labels: jax.Array, key: jax.Array) -> tuple:
        params, model_state, opt_state = state

        def mean_loss(params: PyTree) -> tuple[jax.Array, PyTree]:
            logits, new_state = model.apply(
                {"params": params, **model_state},
                images,
                True,
                rngs={"dropout": key},
                mutable=list(model_state),
            )
            pixels = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return pixels.mean(), new_state

        (loss, model_state), gradients = jax.value_and_grad(mean_loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), model_state, opt_state), loss

    return jax.jit(train, donate_argnums=0), optimizer
