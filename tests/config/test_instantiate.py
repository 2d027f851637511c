"""Objects from config nodes: a user's mistake becomes a message, a bug of the object's own keeps its traceback."""

from __future__ import annotations

import pytest

from runcard.config.instantiate import build
from runcard.errors import UserError


class Buggy:
    """Takes one argument, and has a bug whose message names an argument."""

    def __init__(self, width: int) -> None:
        raise TypeError("sum() takes at least 1 positional argument (0 given)")


def test_an_unknown_argument_is_the_users_mistake():
    with pytest.raises(UserError, match="unexpected keyword argument 'widht'"):
        build("model", {"_target_": f"{__name__}.Buggy", "widht": 3}, [__name__])


def test_a_bug_that_speaks_of_an_argument_is_not():
    with pytest.raises(TypeError, match="sum"):
        build("model", {"_target_": f"{__name__}.Buggy", "width": 3}, [__name__])
