"""Scores of predictions: counts on the device, Dice, IoU and millilitres on the host."""
