"""Which examples make up which batch of which host: pure functions of seed, epoch and position."""

import numpy as np


def steps_per_epoch(num_examples: int, global_batch: int) -> int:
    """Batches that hold every example once; the last one may be padded."""
    return -(-num_examples // global_batch)


def epoch_order(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: a permutation of 0..num_examples-1, the same on every host."""
    return np.random.default_rng([seed, epoch]).permutation(num_examples)


def train_batch(
    examples: np.ndarray, *, global_batch: int, seed: int, epoch: int, batch: int
) -> np.ndarray:
    """The examples, over all hosts, of one batch of an epoch of training: (up to global_batch,)."""
    order = epoch_order(len(examples), seed, epoch)
    return examples[order[batch * global_batch : (batch + 1) * global_batch]]


def host_examples(
    order: np.ndarray, global_batch: int, start_batch: int, host: int, num_hosts: int
) -> np.ndarray:
    """Examples of one host: (batches, B) int32, -1 for padding, from batch `start_batch` on.

    Raises:
        ValueError: if the hosts do not divide the batch, or `host` is none of them.
    """
    if global_batch % num_hosts or not 0 <= host < num_hosts:
        raise ValueError(f"batch {global_batch} over {num_hosts} hosts, host {host}")
    num_batches = steps_per_epoch(len(order), global_batch)
    padded = np.full(num_batches * global_batch, -1, np.int32)
    padded[: len(order)] = order
    return padded.reshape(num_batches, num_hosts, -1)[start_batch:, host]
