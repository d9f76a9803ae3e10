"""From head CT volumes to the TFRecords that `mbh_jax` trains on."""

import os

# A notebook's may name what is not installed here; pictures go to files.
os.environ["MPLBACKEND"] = "agg"
