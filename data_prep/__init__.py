"""From head CT volumes to the TFRecords that `mbh_jax` trains on."""
