"""A log's directory checked by someone who knows the specifications and nothing of us: no module of this tree is imported.

    python tests/independent/tlog_checker.py DIRECTORY VKEY [--tiles-only]

The checkpoint is signed by VKEY (type 1, or 4: a witness's or a mirror's), every tile and entry bundle below it is there and is what the
entries hash to, and the root is the one signed. Files of a later size, or of an earlier one, must agree as far as they go. Exit status 0,
or 1 and what was found.

Source: C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-tiles; RFC 6962 section 2.1.
"""

import argparse
import base64
import hashlib
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def merkle_tree_hash(hashes: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, over leaf hashes."""
    if len(hashes) < 2:
        return hashes[0] if hashes else sha256(b"")
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return sha256(b"\x01" + merkle_tree_hash(hashes[:k]) + merkle_tree_hash(hashes[k:]))


def read_checkpoint(data: bytes, vkey: str) -> tuple[str, int, bytes]:
    """Origin, size and root that VKEY signed. Raises ValueError."""
    name, key_id, encoded = vkey.split("+", 2)
    kind, raw = (key := base64.b64decode(encoded, validate=True))[0], key[1:]
    if kind not in (1, 4) or bytes.fromhex(key_id) != sha256(name.encode() + b"\n" + key)[:4]:
        raise ValueError("the vkey is not of type 1 or 4, or its id is another's")
    body, _, signatures = data.decode().rpartition("\n\n")
    text = body + "\n"
    lines = [line.split(" ") for line in signatures.split("\n")]
    if lines.pop() != [""] or any(len(line) != 3 or line[0] != "\u2014" for line in lines):
        raise ValueError("the checkpoint is no signed note")
    found = [base64.b64decode(line[2], validate=True) for line in lines if line[1] == name]
    ours = [blob[4:] for blob in found if blob[:4] == bytes.fromhex(key_id)]
    if not ours:
        raise ValueError(f"the checkpoint has no signature by {name}")
    for signature in ours:
        told = text if kind == 1 else f"cosignature/v1\ntime {int.from_bytes(signature[:8], 'big')}\n{text}"
        try:
            Ed25519PublicKey.from_public_bytes(raw).verify(signature if kind == 1 else signature[8:], told.encode())
        except InvalidSignature:
            raise ValueError(f"the signature by {name} does not hold") from None
    origin, size, root = text.split("\n")[:3]
    if size != str(int(size)) or (kind == 1 and origin != name):
        raise ValueError("the size is not spelt as it must be, or the origin is not the key's name")
    return origin, int(size), base64.b64decode(root, validate=True)


def path(level: str, index: int, width: int) -> str:
    groups = [f"{index % 1000:03d}"]
    while index := index // 1000:
        groups.insert(0, f"x{index % 1000:03d}")
    return f"tile/{level}/{'/'.join(groups)}" + (f".p/{width}" if width < 256 else "")


def unpacked(bundle: bytes) -> list[bytes]:
    entries = []
    while bundle:
        size = 2 + int.from_bytes(bundle[:2], "big")
        if len(bundle) < max(2, size):
            raise ValueError("an entry is cut short")
        entries.append(bundle[2:size])
        bundle = bundle[size:]
    return entries


def hashes_of(level: str, data: bytes) -> list[bytes]:
    if level == "entries":
        return [sha256(b"\x00" + entry) for entry in unpacked(data)]
    return [data[at : at + 32] for at in range(0, len(data), 32)]


def stored(folder: Path, level: str, index: int, width: int) -> list[bytes]:
    """The first `width` hashes of a tile or bundle: as a client asks for them, the partial one or else the full one."""
    for asked in (width, 256):
        file = folder / path(level, index, asked)
        if file.is_file():
            hashes = hashes_of(level, file.read_bytes())
            if len(hashes) != asked or any(len(one) != 32 for one in hashes):
                raise ValueError(f"{path(level, index, asked)} does not hold {asked}")
            return hashes[:width]
    raise ValueError(f"{path(level, index, width)} is missing")


def check(folder: Path, vkey: str, *, tiles_only: bool = False) -> str:
    """What was verified. Raises ValueError for the first thing that is wrong."""
    origin, size, root = read_checkpoint((folder / "checkpoint").read_bytes(), vkey)
    level, seen = 0, {"checkpoint"}
    known: dict[tuple[str, int], list[bytes]] = {}
    expected: list[bytes] = []
    while (count := size >> 8 * level) > 0:
        tiles = []
        for index in range((count + 255) // 256):
            width = min(256, count - index * 256)
            tiles.append(stored(folder, str(level), index, width))
            if level == 0 and not tiles_only and stored(folder, "entries", index, width) != tiles[-1]:
                raise ValueError(f"{path('entries', index, width)} is not what {path('0', index, width)} says")
            known[str(level), index] = tiles[-1]
        hashes = [one for tile in tiles for one in tile]
        if level and hashes != expected:
            raise ValueError(f"level {level} is not what the tiles below it hash to")
        if level == 0 and merkle_tree_hash(hashes) != root:
            raise ValueError("the root that was signed is not that of the tiles")
        expected = [merkle_tree_hash(tile) for tile in tiles if len(tile) == 256]
        level += 1
    if size == 0 and root != sha256(b""):
        raise ValueError("the empty log has another root")
    later = 0
    for file in sorted((folder / "tile").rglob("*")) if (folder / "tile").is_dir() else []:
        named = file.relative_to(folder).as_posix()
        if file.is_dir() or (tiles_only and named.startswith("tile/entries/")):
            continue
        which, _, rest = named.removeprefix("tile/").partition("/")
        number, _, partial = rest.partition(".p/")
        index, width = int(number.replace("x", "").replace("/", "")), int(partial or 256)
        if named != path(which, index, width):
            raise ValueError(f"{named} is no path of a tile")
        hashes, ours = stored(folder, which, index, width), known.get(("0" if which == "entries" else which, index), [])
        if any(one != other for one, other in zip(hashes, ours, strict=False)):
            raise ValueError(f"{named} says something else than the log of {size}")
        seen.add(named)
        later += len(hashes) > len(ours)
    return f"{origin}: {size} entries, {len(seen)} files, {later} of them of a later size, root {root.hex()}"


def main() -> int:
    """Exit status 0: everything holds."""
    parser = argparse.ArgumentParser(description="Check a tlog-tiles log directory against a key.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("vkey")
    parser.add_argument("--tiles-only", action="store_true", help="leave entry bundles alone")
    asked = parser.parse_args()
    try:
        print(check(asked.directory, asked.vkey, tiles_only=asked.tiles_only))
    except (ValueError, OSError, IndexError) as error:
        print(f"found: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
