"""What the launchers' tests share."""

from pathlib import Path

import pytest
from launchers import StandIn, make_stand_in


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    """A virtual environment whose Python does not train but writes down how it was called."""
    return make_stand_in(tmp_path)
