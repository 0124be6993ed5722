"""The number of this engine.

Within one number, the same inputs give the same bytes to be signed, on any
machine and at any later time (I5); `tests/golden/` holds it to that. Whoever
changes an output raises the number, with an ADR and a line in the changelog.
"""

from typing import Final

ENGINE: Final = 1
