"""Which examples make up which batch of which host: pure functions of an epoch's order.

`mbh_jax.data.sampling` makes the order of an epoch of training.
"""

import numpy as np


def num_batches(num_examples: int, global_batch: int) -> int:
    """Batches that hold every example once; the last one may be padded."""
    return -(-num_examples // global_batch)


def host_examples(
    order: np.ndarray, global_batch: int, start_batch: int, host: int, num_hosts: int
) -> np.ndarray:
    """Examples of one host: (batches, B) int32, -1 for padding, from batch `start_batch` on.

    Args:
        order: (m,) integers, those of all hosts; batch k is `order[k * B : (k + 1) * B]`.
        global_batch: examples in a batch over all hosts.
        start_batch: the first batch.
        host: number of the host.
        num_hosts: how many there are.

    Raises:
        ValueError: if the hosts do not divide the batch, or `host` is none of them.
    """
    if global_batch % num_hosts or not 0 <= host < num_hosts:
        raise ValueError(f"batch {global_batch} over {num_hosts} hosts, host {host}")
    batches = num_batches(len(order), global_batch)
    padded = np.full(batches * global_batch, -1, np.int32)
    padded[: len(order)] = order
    return padded.reshape(batches, num_hosts, -1)[start_batch:, host]


def draw_numbers(order: np.ndarray, num_examples: int) -> np.ndarray:
    """A number for each draw of an epoch that no other one has, (m,) int32.

    What is random about an example is keyed by it, so that a slice that is drawn twice in an epoch
    is not augmented alike. The first draw of example i has the number i, the next one i + N.

    Args:
        order: (m,) examples of the epoch, over all hosts.
        num_examples: N, examples of the dataset.
    """
    by_example = np.argsort(order, kind="stable")
    sorted_examples = order[by_example]
    is_first = np.r_[True, sorted_examples[1:] != sorted_examples[:-1]][: len(order)]
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
    earlier_draws = np.empty(len(order), np.int64)
    earlier_draws[by_example] = np.arange(len(order)) - first
    # Wraps around where an epoch is longer than 2^31 numbers; keys take any 32 bits.
    return (order + earlier_draws * num_examples).astype(np.int32)
