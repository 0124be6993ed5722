"""Packages named on a command line, or listed by a snapshot, turned into reference values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from verifier.packages import Package, package_corim
from verifier.packages.deb import read_deb
from verifier.packages.repository import open_repository, read_listed
from verifier.packages.rpm import read_rpm
from writ.formats.corim import Corim
from writ.formats.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Collected:
    """Reference values of packages, each id once.

    `empty` are ids of packages without a regular file; `absent` counts the
    packages that an index lists and the snapshot does not hold; `signed_by`
    are the fingerprints of the keys that vouch for the snapshots.
    """

    corims: tuple[Corim, ...]
    empty: tuple[str, ...]
    absent: int
    signed_by: tuple[str, ...]


def collect(
    namespace: str,
    *,
    debs: Sequence[Path] = (),
    rpms: Sequence[Path] = (),
    snapshots: Sequence[Path] = (),
    keyring: Path | None = None,
    seen: Callable[[int], None] = lambda _: None,
) -> Collected:
    """The reference values of all of them, for `namespace`; `seen` is called with 1 for each package read.

    Raises FormatError, Refused and Unavailable as the readers do; then nothing of any is returned.
    """
    corims: dict[str, Corim] = {}
    empty: list[str] = []
    absent, signed_by = 0, set[str]()
    repositories = [open_repository(snapshot, keyring=keyring) for snapshot in snapshots]
    listed = [one for repository in repositories for one in repository.packages]
    for repository in repositories:
        signed_by.update(repository.signed_by)
        absent += sum(not one.is_there for one in repository.packages)
    for package in _packages(debs, rpms):
        _take(package, namespace, corims, empty)
        seen(1)
    for one in listed:
        if one.is_there:
            _take(read_listed(one), namespace, corims, empty)
            seen(1)
    return Collected(tuple(corims[key] for key in sorted(corims)), tuple(sorted(empty)), absent, tuple(sorted(signed_by)))


def _packages(debs: Sequence[Path], rpms: Sequence[Path]) -> Iterator[Package]:
    for paths, read in ((debs, read_deb), (rpms, read_rpm)):
        for path in paths:
            try:
                with path.open("rb") as file:
                    yield read(file, path.name)
            except OSError as error:
                raise Unavailable(f"file {path}", error.strerror or "cannot be read") from None


def _take(package: Package, namespace: str, corims: dict[str, Corim], empty: list[str]) -> None:
    corim = package_corim(package, namespace)
    if corim is None:
        empty.append(package.id)
    else:
        corims[corim.id] = corim
