"""Seconds and memory of inference, images to label maps: ours against PyTorch, Keras and Flax.

    python -m benchmarks.inference --size 256 --batch 2
    python -m benchmarks.inference --size 128,256,512 --python torch=/path/to/python

Options and checks are those of `benchmarks.train_step`. Ours also makes the windows.
"""

from benchmarks import contest

if __name__ == "__main__":
    contest.main("inference", __doc__)
