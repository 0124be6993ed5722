"""What a verifier remembers of a boot: the registers that its logs led to, and the values read from what the quote covered.

Recorded beside `HostState` until the next boot, so that the logs travel once.
`values` holds environment -> component -> digest, as reference values name
them; only what replayed to a quoted PCR is in it.

    {"log": h'…', "registers": [[0, h'…'], …], "loader": [], "secure_boot": true,
     "values": [["boot", [["cmdline", "sha256:…"], …]], …], "reasons": []}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from writ.formats.digest import PCR_COUNT, Digest
from writ.formats.errors import FormatError
from writ.formats.reason import Reason
from writ.formats.strict import Fields

MOST_VALUES: Final = 1024
MOST_REASONS: Final = 256

Values = tuple[tuple[str, tuple[tuple[str, Digest], ...]], ...]


@dataclass(frozen=True, slots=True)
class BootState:
    """One boot as its logs tell it.

    `log` is the SHA-256 of the firmware's log, `registers` the values
    (index, bytes) it replayed to, of PCRs that the quote then had, sorted.
    `loader` are the values of PCRs 8 and 9 where the firmware's log alone leads: what the kernel found, whatever was extended since.
    `reasons` is what stood against that log itself; it stands until another log of this boot, the next boot or a resume.
    """

    log: Digest
    registers: tuple[tuple[int, bytes], ...]
    loader: tuple[tuple[int, bytes], ...]
    secure_boot: bool | None
    values: Values
    reasons: tuple[Reason, ...]

    def to_cbor(self) -> dict[str, object]:
        """The form inside a host state."""
        return {
            "log": self.log.value,
            "registers": [[index, value] for index, value in self.registers],
            "loader": [[index, value] for index, value in self.loader],
            "secure_boot": self.secure_boot,
            "values": [[environment, [[name, str(digest)] for name, digest in known]] for environment, known in self.values],
            "reasons": [reason.to_cbor() for reason in self.reasons],
        }

    @classmethod
    def from_cbor(cls, value: object) -> BootState:
        """Read that form. Raises FormatError."""
        f = Fields(value, "boot")
        secure_boot = f.any("secure_boot")
        if secure_boot is not None and not isinstance(secure_boot, bool):
            raise FormatError("boot.secure_boot", "true, false or null", type(secure_boot).__name__)
        boot = cls(
            log=f.digest("log"),
            registers=tuple(_register(item) for item in f.items("registers", most=PCR_COUNT)),
            loader=tuple(_register(item) for item in f.items("loader", most=2)),
            secure_boot=secure_boot,
            values=tuple(_environment(item) for item in f.items("values", most=16)),
            reasons=tuple(Reason.from_cbor(item) for item in f.items("reasons", most=MOST_REASONS)),
        )
        f.done()
        _sorted([index for index, _ in boot.registers], "registers")
        _sorted([index for index, _ in boot.loader], "loader")
        _sorted([environment for environment, _ in boot.values], "values")
        for _, known in boot.values:
            _sorted([name for name, _ in known], "values")
        _sorted(list(boot.reasons), "reasons")
        return boot


def _register(value: object) -> tuple[int, bytes]:
    f = _row(value, 2, "registers")
    return f.uint(0, most=PCR_COUNT - 1), f.raw(1, most=64)


def _environment(value: object) -> tuple[str, tuple[tuple[str, Digest], ...]]:
    f = _row(value, 2, "values")
    return f.text(0, least=1, most=64), tuple(_component(item) for item in f.items(1, most=MOST_VALUES))


def _component(value: object) -> tuple[str, Digest]:
    f = _row(value, 2, "values")
    return f.text(0, least=1, most=256), Digest.parse(f.text(1))


def _row(value: object, count: int, what: str) -> Fields:
    if not isinstance(value, list) or len(value) != count:
        raise FormatError(f"boot.{what}", f"an array of {count}", type(value).__name__)
    return Fields(dict(enumerate(value)), f"boot.{what}")


def _sorted(found: list[Any], what: str) -> None:
    if found != sorted(set(found)):
        raise FormatError(f"boot.{what}", "sorted, each once", "another order")
