"""The fixture of the launchers' tests."""

from pathlib import Path

import pytest
from launchers import StandIn, make_stand_in


@pytest.fixture
def stand_in(tmp_path: Path) -> StandIn:
    """A virtual environment whose Python records how it was called instead of training."""
    return make_stand_in(tmp_path)
