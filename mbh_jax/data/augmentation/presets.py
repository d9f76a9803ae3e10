"""How often each transform of a preset acts, and the range that its parameter is drawn from."""

from typing import NamedTuple

BLOOD_MEAN_HU, BLOOD_STD_HU = 52.0, 15.0
"""Mean and standard deviation of blood, rounded from 36 labelled slices of BHSD (52.6 and 15.2).

They make the scale on which intensities are changed: 0 is the mean, 1 a standard deviation more, as
nnU-Net normalises CT. A noise of 0.1 is then one of 1.5 HU, whatever the windows are.
"""


class Range(NamedTuple):
    """When a transform acts, and what its parameter may be.

    Attributes:
        probability: of acting on an example; a transform with 0 is not compiled at all.
        low, high: bounds of the parameter.
        channel_probability: of acting on a channel of an example that it acts on.
    """

    probability: float = 0.0
    low: float = 0.0
    high: float = 0.0
    channel_probability: float = 1.0


OFF = Range()


class Preset(NamedTuple):
    """The transforms in the order in which they act; spatial ones are one resampling.

    Attributes:
        window_level_hu: added to the level of every window.
        window_width: factor on the width of every window.
        rotation_degrees: angle of rotation.
        scale: factor on coordinates: above 1, what is shown becomes smaller.
        shear: tangent of the angle, along rows.
        shift: in each direction, as a fraction of the side.
        elastic: standard deviation of the displacements of the control points of a cubic B-spline,
            as a fraction of the side.
        flip_horizontal, flip_vertical: probability of a mirror image, left to right and upside
            down.
        noise: standard deviation of the noise of pixels, the same in all channels.
        blur: standard deviation of a Gaussian in pixels, at most 1.2.
        brightness: factor.
        contrast: factor on the distance from a channel's mean; its range is kept.
        low_resolution: size that a slice is sampled down to, as a fraction.
        inverted_gamma, gamma: exponent, of the negated values and of the values; mean and standard
            deviation of a channel are kept.
        fill_with_lowest: whether what comes into view from outside is the lowest value of the slice
            in each channel, which is air, also where a dataset has clamped it to 0 HU as BHSD has;
            or else 0 on the scale of blood.
        clip: whether values are clamped to those that a window can have.
    """

    window_level_hu: Range = OFF
    window_width: Range = OFF
    rotation_degrees: Range = OFF
    scale: Range = OFF
    shear: Range = OFF
    shift: Range = OFF
    elastic: Range = OFF
    flip_horizontal: float = 0.0
    flip_vertical: float = 0.0
    noise: Range = OFF
    blur: Range = OFF
    brightness: Range = OFF
    contrast: Range = OFF
    low_resolution: Range = OFF
    inverted_gamma: Range = OFF
    gamma: Range = OFF
    fill_with_lowest: bool = True
    clip: bool = True


STRONG = Preset(
    window_level_hu=Range(0.5, -6.0, 6.0),
    window_width=Range(0.5, 0.8, 1.25),
    rotation_degrees=Range(0.5, -15.0, 15.0),
    scale=Range(0.5, 0.85, 1.18),
    shear=Range(0.3, -0.1, 0.1),
    shift=Range(0.5, -0.06, 0.06),
    elastic=Range(0.3, 0.005, 0.02),
    flip_horizontal=0.5,
    noise=Range(0.3, 0.0, 0.4),
    blur=Range(0.2, 0.5, 1.0, channel_probability=0.5),
    brightness=Range(0.15, 0.75, 1.25),
    contrast=Range(0.15, 0.75, 1.25),
    low_resolution=Range(0.15, 0.5, 1.0, channel_probability=0.5),
    inverted_gamma=Range(0.1, 0.7, 1.5),
    gamma=Range(0.2, 0.7, 1.5),
)
"""For heads that lie straight in the scanner: mirrored left to right only, moderately moved."""

NNUNET = Preset(
    rotation_degrees=Range(0.2, -180.0, 180.0),
    scale=Range(0.2, 0.7, 1.4),
    flip_horizontal=0.5,
    flip_vertical=0.5,
    noise=Range(0.1, 0.0, 0.1),
    blur=Range(0.2, 0.5, 1.0, channel_probability=0.5),
    brightness=Range(0.15, 0.75, 1.25),
    contrast=Range(0.15, 0.75, 1.25),
    low_resolution=Range(0.25, 0.5, 1.0, channel_probability=0.5),
    inverted_gamma=Range(0.1, 0.7, 1.5),
    gamma=Range(0.3, 0.7, 1.5),
    fill_with_lowest=False,
    clip=False,
)
"""What nnU-Net v2 does to 2D slices (`nnUNetTrainer.get_training_transforms`, batchgeneratorsv2).

It mirrors last; here mirroring is part of the resampling, which gives the same distribution,
because what is between the two treats an image and its mirror image alike.
"""
