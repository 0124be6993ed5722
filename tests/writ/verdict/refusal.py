"""How a test says which refusal it expects."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from writ.formats.errors import Refused
from writ.formats.reason import Reason


def refused(call: Callable[[], object]) -> Reason:
    """The one reason with which `call` refuses; fails where it does not refuse, or with several."""
    with pytest.raises(Refused) as caught:
        call()
    assert len(caught.value.reasons) == 1
    return caught.value.reasons[0]
