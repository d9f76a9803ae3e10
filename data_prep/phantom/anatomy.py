"""A whole head: skull, face and brain on one grid, with the bleeds' room already made."""

from typing import NamedTuple

from data_prep.phantom.brain import Brain
from data_prep.phantom.cerebrum import Cerebrum
from data_prep.phantom.skull import Face, Skull
from data_prep.phantom.wound import Wound


class Anatomy(NamedTuple):
    """All tissue of a head. `face` covers the grid's lowest slices only, and may be absent."""

    skull: Skull
    face: Face | None
    brain: Brain
    cerebrum: Cerebrum
    wound: Wound | None
