"""What a network is trained to do: losses, optimizers, learning-rate schedules."""
