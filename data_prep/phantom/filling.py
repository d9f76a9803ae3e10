"""How far a bleed spreads: the level of a score above which a compartment holds a volume."""

import numpy as np

from data_prep.phantom.shapes import FloatArray


def level_for_volume(score: FloatArray, room_ml: FloatArray, volume_ml: float) -> float:
    """The level such that cells whose score is above it have `volume_ml` of room.

    Args:
        score: any shape; what fills first has the highest.
        room_ml: the same shape, the volume of each cell that may be filled.
        volume_ml: what to fill; where there is less room, all of it is.
    """
    usable = room_ml > 0.0
    scores, rooms = score[usable], room_ml[usable]
    if not scores.size:
        return 0.0
    order = np.argsort(-scores)
    filled_ml = np.cumsum(rooms[order], dtype=np.float64)
    last = min(int(np.searchsorted(filled_ml, volume_ml)), scores.size - 1)
    return float(scores[order[last]])
