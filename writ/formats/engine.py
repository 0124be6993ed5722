"""EngineId: which code made a decision, so that the same code can make it again."""

from __future__ import annotations

from dataclasses import dataclass

from writ.formats.digest import Digest
from writ.formats.errors import FormatError
from writ.formats.strict import Fields, decode_cbor, encode_cbor


@dataclass(frozen=True, slots=True)
class EngineId:
    """The engine number, the digest of `writ/formats` and `writ/verdict` as installed, and the libraries under them."""

    number: int
    tree: Digest
    libraries: tuple[tuple[str, str], ...]

    @property
    def digest(self) -> Digest:
        """The name under which decisions refer to it: of its encoding."""
        return Digest.of(encode_engine(self))

    def to_cbor(self) -> dict[str, object]:
        """The map that records carry."""
        return {"number": self.number, "tree": self.tree.value, "libraries": dict(self.libraries)}

    @classmethod
    def from_cbor(cls, value: object) -> EngineId:
        """Read the map. Raises FormatError."""
        f = Fields(value, "engine")
        number, tree = f.uint("number"), f.digest("tree")
        libraries = []
        for name, version in f.mapping("libraries", most=32).items():
            if not isinstance(name, str) or not isinstance(version, str) or len(name) + len(version) > 160:
                raise FormatError("engine.libraries", "name -> version", repr(name)[:40])
            libraries.append((name, version))
        f.done()
        return cls(number, tree, tuple(sorted(libraries)))


def encode_engine(engine: EngineId) -> bytes:
    """The object whose digest decisions name."""
    return encode_cbor(engine.to_cbor())


def parse_engine(data: bytes) -> EngineId:
    """Read the object. Raises FormatError."""
    return EngineId.from_cbor(decode_cbor(data, "engine"))
