"""Histories as the training loop makes them."""

import math

import pytest

from mbh_jax.labels import CLASS_NAMES, FOREGROUND


@pytest.fixture
def make_history():
    """`make_history(n)`: n epochs; the loss is lowest at 5; the rate is halved before 4."""

    def make(num_epochs):
        return [
            {
                "epoch": epoch,
                "step": 10 * epoch,
                "learning_rate": 1e-3 if epoch < 4 else 5e-4,
                "loss": 1 / epoch,
                "val_loss": 0.1 + (epoch - 5) ** 2 / 7,
                "dice_coef_multiclass": 0.98,
                "val_dice_coef_multiclass": 0.97,
                "foreground_dice": epoch / 200,
                "val_foreground_dice": epoch / 300,
                **{
                    f"val_dice_{CLASS_NAMES[c]}": math.nan if c == 1 else epoch / 100 / c
                    for c in FOREGROUND
                },
                "seconds": 1.25,
                "images_per_second": 3.5,
            }
            for epoch in range(1, num_epochs + 1)
        ]

    return make
