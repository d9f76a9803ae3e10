"""Seconds and memory of a training step: ours against PyTorch, Keras and plain Flax.

    python -m benchmarks.train_step --size 256 --batch 2
    python -m benchmarks.train_step --size 128,256,512 --python torch=/path/to/python
    python -m benchmarks.train_step --recipe quickstart --size 128 --batch 4
    python -m benchmarks.train_step --recipe strong --size 256 --baselines ours,torch
    python -m benchmarks.train_step --dtype bfloat16 --baselines ours,torch_compile    # on a GPU

All implementations have the same network, weights, batch, loss (categorical cross-entropy) and Adam
optimizer. Parameter counts and the loss of the first batch are compared before anything is timed.
"ours" is the step that training runs: it also computes the windows, the metrics and gradient norm.
"""

from benchmarks import comparison

if __name__ == "__main__":
    comparison.main("train", __doc__)
