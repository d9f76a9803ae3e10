"""FlexUNet in Keras on TensorFlow: a `tf.function`, oneDNN on; variant "xla" adds jit_compile."""

import math
import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from keras import layers

from benchmarks.baselines import Implementation
from benchmarks.workload import Layer, Workload


def flexunet(workload: Workload) -> keras.Model:
    """The network, from images (B, H, W, C) to float32 logits (B, H, W, classes)."""
    network = workload.network

    def conv(x: keras.KerasTensor, layer: Layer) -> keras.KerasTensor:
        side, _, _, features = layer.kernel_shape
        x = layers.Conv2D(
            features,
            side,
            dilation_rate=layer.dilation,
            padding="same",
            activation=network["activation"],
            name=layer.name.replace("/", "."),
        )(x)
        if network["norm"] == "batch":
            x = layers.BatchNormalization()(x)
        elif network["norm"] == "group":
            x = layers.GroupNormalization(min(8, features))(x)
        return layers.Dropout(layer.dropout_rate)(x) if layer.dropout_rate else x

    inputs = x = layers.Input((workload.size, workload.size, workload.channels))
    skips = []
    for layer in workload.layers():
        features = layer.kernel_shape[3]
        if layer.kind == "up":
            x = layers.Conv2DTranspose(features, 2, 2, padding="same", name=layer.name)(x)
            x = layers.Concatenate()([x, skips.pop()])
        elif layer.name == "logits":
            x = layers.Conv2D(features, 1, name=layer.name, dtype="float32")(x)
        else:
            x = conv(x, layer)
            if layer.name.startswith("encoder_") and layer.name.endswith("/conv_1"):
                skips.append(x)
                x = layers.MaxPooling2D(2)(x)
    return keras.Model(inputs, x)


def _set_weights(model: keras.Model, workload: Workload) -> None:
    for layer, kernel in workload.weights():
        keras_layer = model.get_layer(layer.name.replace("/", "."))
        keras_layer.kernel.assign(kernel if layer.kind == "conv" else kernel.swapaxes(2, 3))


def adam(workload: Workload) -> keras.optimizers.Optimizer:
    """The workload's Adam optimizer."""
    options = workload.optimizer
    return keras.optimizers.Adam(
        options["learning_rate"],
        options["beta1"],
        options["beta2"],
        options["epsilon"],
        clipvalue=options["clip_value"] or None,
        global_clipnorm=options["clip_norm"] or None,
    )


def build(workload: Workload, variant: str) -> Implementation:
    """One `tf.function` for each step; compiled by XLA if `variant` is "xla"."""
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    if workload.dtype == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    keras.utils.set_random_seed(0)
    model = flexunet(workload)
    _set_weights(model, workload)
    images, labels = tf.constant(workload.images()), tf.constant(workload.labels(), tf.int32)

    def loss_of(logits: tf.Tensor) -> tf.Tensor:
        pixels = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        return tf.reduce_mean(pixels)

    compiled = tf.function(jit_compile=variant == "xla")
    loss_value = float(tf.function(lambda: loss_of(model(images, training=False)))())

    if workload.task == "inference":

        @compiled
        def run(images: tf.Tensor) -> tf.Tensor:
            return tf.cast(tf.argmax(model(images, training=False), -1), tf.uint8)

    else:
        optimizer = adam(workload)
        optimizer.build(model.trainable_variables)

        @compiled
        def run(images: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = loss_of(model(images, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            return loss

    newest = tf.constant(0.0)

    def step() -> None:
        nonlocal newest
        newest = run(images)

    def wait() -> None:
        value = newest.numpy()
        if workload.task == "train" and not math.isfinite(value):
            raise FloatingPointError("the loss is not finite")

    gpus = tf.config.list_physical_devices("GPU")
    return Implementation(
        num_parameters=sum(int(tf.size(v)) for v in model.trainable_variables),
        loss=loss_value,
        step=step,
        wait=wait,
        versions={"keras": keras.__version__, "tensorflow": tf.__version__},
        device="GPU" if gpus else "CPU",
        peak_device_bytes=lambda: (
            tf.config.experimental.get_memory_info("GPU:0")["peak"] if gpus else None
        ),
    )
