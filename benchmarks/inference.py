"""Seconds and memory of inference, images to label maps: ours against PyTorch, Keras and Flax.

    python -m benchmarks.inference --size 256 --batch 2
    python -m benchmarks.inference --size 128,256,512 --python torch=/path/to/python

The options and checks are those of `benchmarks.train_step`. "ours" also computes the windows.
"""

from benchmarks import comparison

if __name__ == "__main__":
    comparison.main("inference", __doc__)
