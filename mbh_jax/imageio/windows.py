"""CT windows: what range of Hounsfield units a network or a person is shown."""

from typing import Any, NamedTuple


class Window(NamedTuple):
    """A range of Hounsfield units around a level.

    Attributes:
        level_hu: its middle.
        width_hu: from its lowest to its highest value.
        to_unit: whether it is mapped to 0..1; otherwise values are clamped and stay HU.
    """

    level_hu: float
    width_hu: float
    to_unit: bool = True

    @property
    def range_hu(self) -> tuple[float, float]:
        """Its lowest and its highest value."""
        return self.level_hu - self.width_hu / 2, self.level_hu + self.width_hu / 2

    def __call__(self, hu: Any) -> Any:
        """Applies it to an array of NumPy or JAX, of any number type: float32, the same shape."""
        low_hu, high_hu = self.range_hu
        hu = hu.astype("float32")
        if self.to_unit:
            return ((hu - low_hu) / self.width_hu).clip(0.0, 1.0)
        return hu.clip(low_hu, high_hu)


BRAIN = Window(level_hu=40.0, width_hu=80.0)
SUBDURAL = Window(level_hu=80.0, width_hu=200.0)
BONE = Window(level_hu=600.0, width_hu=2800.0)
BLOOD = Window(level_hu=75.0, width_hu=150.0)
WIDE = Window(level_hu=127.5, width_hu=255.0)
CLAMPED = Window(level_hu=127.5, width_hu=255.0, to_unit=False)
"""0 to 255 HU, not normalised: what the TensorFlow FlexUNet's pictures hold."""

PRESETS: dict[str, tuple[Window, ...]] = {
    "hu_0_255": (CLAMPED, CLAMPED, CLAMPED),
    "brain": (BRAIN,),
    "brain_subdural_bone": (BRAIN, SUBDURAL, BONE),
    "brain_blood_wide": (BRAIN, BLOOD, WIDE),
}
"""The input channels of a network, one a window, by their name in a configuration."""
