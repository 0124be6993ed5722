"""`./run release`: a wheel of this tree, and beside it signed reference values of what the wheel will bring to a host.

    writ-VERSION-TAGS.whl
    writ-VERSION-TAGS.governance.corim        attestor, enforcer and writ, as the attestor will measure them there
    writ-VERSION-TAGS.files.writ.corim        with --at DIR: each file of the wheel, where DIR is the site-packages it is installed into
    writ-VERSION-TAGS.rooted.attestor.corim   with --at DIR: the sources that IMA must have measured
    writ-VERSION-TAGS.rooted.enforcer.corim   likewise, and the shim

All of it is computed from the wheel alone, so that two builds give the same bytes (signed by Ed25519: other signatures hold a random
number). Not in a wheel, and so in none of these: the interpreter, libraries whose wheel is not named by --with, and what an installer
writes (RECORD, the scripts in `bin`, bytecode). `--over` takes from a CoRIM in force what the governance lacks.

Exit status: 0 done, 1 refused, 2 misuse, 3 could not.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final
from zipfile import BadZipFile, ZipFile

from attestor.measure.governance import measure_installed
from attestor.measure.tree import measure_tree
from verifier.commands import make_directory, read, write
from verifier.reference import laid_over
from writ.formats.corim import Corim, read_corim, sign_corim
from writ.formats.digest import Digest
from writ.formats.errors import FormatError, Unavailable
from writ.formats.tree import component_root
from writ.service import cli
from writ.service.signers import load_signer
from writ.verdict.reference import GOVERNANCE

ROOT: Final = Path(__file__).parents[1]
NAMESPACE: Final = "writ"
"""The maker's own: a site adopts what stands there."""
SHIM: Final = "enforcer/launch/shim"
ROOTED: Final = {"attestor": ("attestor/", "writ/"), "enforcer": ("enforcer/",)}
"""Part -> where its code lies. The launcher is bubblewrap, the interpreter and the IMA policy are the host's."""


@cli.command
def main(argv: Sequence[str]) -> int:
    """1. The wheel. 2. What it brings. 3. What is in force beside it. 4. Each signed and written."""
    made = argparse.ArgumentParser(prog="release", description="a wheel, and signed reference values of what it brings", allow_abbrev=False)
    made.add_argument("--sign-key", type=Path, required=True, metavar="FILE", help="sign with this private key (PEM)")
    made.add_argument("--signer", default="release", metavar="NAME", help="who signs")
    made.add_argument("--wheel", type=Path, metavar="FILE", help="this wheel, instead of one of this tree as it is")
    made.add_argument(
        "--with", dest="beside", type=Path, action="append", default=[], metavar="WHEEL", help="a library that changes with it"
    )
    made.add_argument("--at", type=PurePosixPath, metavar="DIR", help="the site-packages that hosts will have it in: name its files too")
    made.add_argument("--namespace", default=NAMESPACE, metavar="NAME", help="whose reference values they are")
    made.add_argument("--over", type=Path, metavar="FILE", help="the governance in force, of which the rest is taken")
    made.add_argument("--out", type=Path, default=Path("dist"), metavar="DIR")
    cli.add_json_flag(made)
    args = made.parse_args(argv)
    signer = load_signer(args.sign_key)
    # 1
    make_directory(args.out)
    wheel = args.wheel or build(args.out)
    # 2
    corims = release_corims(wheel, args.beside, namespace=args.namespace, at=args.at)
    # 3
    if args.over is not None:
        base = read_corim(read(args.over))
        if base.namespace != args.namespace:
            raise FormatError("--over", f"reference values of {args.namespace}", base.namespace)
        corims = [laid_over(one, base) if one.environment == GOVERNANCE else one for one in corims]
    # 4
    written = []
    for corim in corims:
        file = args.out / f"{wheel.stem}.{corim.environment.replace('/', '.')}.corim"
        write(file, sign_corim(corim, signer, signer_name=args.signer))
        written.append({"file": str(file), "environment": corim.environment, "components": len(corim.components)})
    cli.emit({"wheel": str(wheel), "written": written}, args.json)
    return cli.ACCEPTED


def build(out: Path) -> Path:
    """The wheel of this tree as it is, in `out`. Raises Unavailable."""
    with tempfile.TemporaryDirectory(dir=out) as place:
        hatchling = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(Path(place).resolve())]
        done = subprocess.run(hatchling, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unavailable("wheel", (done.stderr or done.stdout).strip()[-400:])
        (made,) = Path(place).glob("*.whl")
        return made.replace(out / made.name)


def release_corims(wheel: Path, beside: Sequence[Path] = (), *, namespace: str = NAMESPACE, at: PurePosixPath | None = None) -> list[Corim]:
    """What an installation of `wheel`, and of the wheels `beside` it, will be measured as; without `at` the governance alone.

    Raises FormatError for what is no such wheel, Refused as `measure_tree`, Unavailable.
    """
    named = f"{'-'.join(wheel.stem.split('-')[:2])}-{Digest.of(_bytes(wheel)).hex()[:16]}"

    def corim(environment: str, values: dict[str, Digest]) -> Corim:
        return Corim(f"{named}.{environment.replace('/', '.')}", namespace, environment, tuple(sorted(values.items())))

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for one in (wheel, *beside):
            unpack(one, root)
        parts = measure_installed(lambda package: root / package if (root / package).is_dir() else None)
        made = [corim(GOVERNANCE, {part.name: component_root(part) for part in parts})]
        if at is not None:
            made += [corim(environment, values) for environment, values in _files(root, at)]
    return made


def _files(root: Path, at: PurePosixPath) -> Iterator[tuple[str, dict[str, Digest]]]:
    """Environments of what IMA will measure, each with its files by their places on a host."""
    if not at.is_absolute():
        raise FormatError("--at", "an absolute path", str(at))
    entries = [one for one in measure_tree("wheel", "packages", root).entries if not one.path.endswith(".dist-info/RECORD")]
    yield "files/writ", {f"{at}/{one.path}": one.digest for one in entries if one.digest is not None}
    for part, folders in ROOTED.items():
        # An empty module may never be opened; who measures the governance reads every other one.
        code = [one for one in entries if one.path.startswith(folders) and one.size and (one.path.endswith(".py") or one.path == SHIM)]
        yield f"rooted/{part}", {f"{at}/{one.path}": one.digest for one in code if one.digest is not None}


def unpack(wheel: Path, into: Path) -> None:
    """What an installer puts into site-packages, execute bits included. Raises FormatError, Unavailable.

    Source: PyPA, "Binary distribution format". Of what `.data` holds the installer says where it goes, so a wheel with it is refused.
    """
    try:
        with ZipFile(wheel) as archive:
            for info in archive.infolist():
                parts = PurePosixPath(info.filename).parts
                if not parts or ".." in parts or info.filename.startswith("/") or parts[0].endswith(".data"):
                    raise FormatError(wheel.name, "files that lie in site-packages", info.filename[:100])
                file = Path(archive.extract(info, into))
                if file.is_file():
                    file.chmod(0o755 if info.external_attr >> 16 & 0o111 else 0o644)
    except BadZipFile:
        raise FormatError(wheel.name, "a wheel", "no ZIP archive") from None
    except OSError as error:
        raise Unavailable(f"file {wheel}", error.strerror or "cannot be read") from None


def _bytes(wheel: Path) -> bytes:
    try:
        return wheel.read_bytes()
    except OSError as error:
        raise Unavailable(f"file {wheel}", error.strerror or "cannot be read") from None


if __name__ == "__main__":
    sys.exit(main())
