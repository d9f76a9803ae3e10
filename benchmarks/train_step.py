"""Seconds and memory of a training step: ours against PyTorch, Keras and plain Flax.

    python -m benchmarks.train_step --size 256 --batch 2
    python -m benchmarks.train_step --size 128,256,512 --python torch=/path/to/python
    python -m benchmarks.train_step --recipe quickstart --size 128 --batch 4
    python -m benchmarks.train_step --dtype bfloat16 --peers ours,torch_compile    # on a GPU

The same network, weights, batch, loss (categorical cross-entropy) and Adam for all; parameter
counts and the loss of the first batch are compared before anything is timed. Ours is the step that
training runs: it also makes the windows, reports metrics and the size of the update.
"""

from benchmarks import contest

if __name__ == "__main__":
    contest.main("train", __doc__)
