"""`opportune pack`, `opportune sign` and `opportune verify`: rulebases as signed archives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from opportune_rulebase import from_archive, load, revision_of, to_archive
from opportune_rulebase.errors import RulebaseError
from opportune_rulebase.signatures import KeyFileError, PassphraseError, sign, signed_by

from opportune_service.adapters.files.signers import SignersError, read_signers
from opportune_service.cli.problems import show_problems
from opportune_service.cli.rulebase_files import RulebasePath, read_files
from opportune_service.cli.terminal import ExitCode, err, out, stop

SUFFIX = ".sig"
"""What a signature's file has after the name of its archive."""

ArchivePath = Annotated[
    Path,
    typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The archive, as `pack` wrote it."),
]


def pack_command(
    path: RulebasePath,
    out_file: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.zip", dir_okay=False, help="Where to write it.")
    ],
) -> None:
    """Pack a rulebase into one archive: the same bytes each time.

    Only a rulebase that loads is packed. Nothing but its own files is in it, without times and owners.

    Ends with 0 if it was written, 1 if the rulebase has errors or the file cannot be written, 5 if there is
    no rulebase that can be read, 2 for a wrong command line.

    Example: opportune pack my-rulebase --out my-rulebase.zip
    """
    files = read_files(path)
    revision = load(files).revision
    _write(out_file, to_archive(files))
    out().print(f"{out_file}: {len(files)} files, revision {revision}", markup=False)


def sign_command(
    path: ArchivePath,
    key_file: Annotated[
        Path,
        typer.Option(
            "--key", metavar="KEY.pem", exists=True, dir_okay=False, help="File with the private key."
        ),
    ],
) -> None:
    """Sign an archive: writes the signature beside it, as FILE.sig.

    The key is an Ed25519 key in PEM. If it is encrypted its passphrase is asked for; neither ever stands on
    the command line. What is uploaded must be these very bytes: packing anew may give others.

    Ends with 0 if it was signed, 1 if the key cannot be used or the file cannot be written, 5 if something
    cannot be read, 2 for a wrong command line.

    Example: opportune sign my-rulebase.zip --key release.pem
    """
    archive, key = _read(path), _read(key_file)
    revision = revision_of(_unpacked(path, archive))
    try:
        signature = _signature(archive, key)
    except KeyFileError as error:
        stop(ExitCode.NO, f"{key_file}: {error}")
    target = _beside(path)
    _write(target, signature)
    out().print(f"{target}: signature of revision {revision}", markup=False)


def verify_command(
    path: ArchivePath,
    signers: Annotated[
        Path,
        typer.Option(
            "--signers", metavar="PATH", exists=True, help="Directory of public keys (PEM), or one of them."
        ),
    ],
) -> None:
    """Check the signature of an archive, as a service does that has these signers.

    Ends with 0 if one of the signers signed it, 1 if not, 5 if something cannot be read, 2 for a wrong
    command line.

    Example: opportune verify my-rulebase.zip --signers /etc/opportune/signers
    """
    archive, signature = _read(path), signature_beside(path)
    if not signature:
        stop(ExitCode.NO, f"{path} is not signed: there is no {_beside(path)}.")
    try:
        keys = read_signers(signers)
    except SignersError as error:
        stop(ExitCode.UNREADABLE, str(error))
    name = next((name for name, key in keys.items() if signed_by(archive, signature, key)), None)
    if name is None:
        stop(ExitCode.NO, f"{_beside(path)} is no signature of {path} by {' or '.join(keys)}.")
    revision = revision_of(_unpacked(path, archive))
    out().print(f"{path}: revision {revision}, signed by {name}", markup=False)


def signature_beside(archive: Path) -> bytes:
    """The signature of an archive from the file beside it; nothing if there is none. Ends the command if it
    cannot be read."""
    beside = _beside(archive)
    return _read(beside) if beside.is_file() else b""


def _beside(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}{SUFFIX}")


def _signature(archive: bytes, key: bytes) -> bytes:
    try:
        return sign(archive, key)
    except PassphraseError:
        passphrase = typer.prompt("Passphrase of the key", hide_input=True, err=True)
        return sign(archive, key, str(passphrase).encode())


def _unpacked(path: Path, archive: bytes) -> dict[str, bytes]:
    try:
        return from_archive(archive)
    except RulebaseError as error:
        show_problems(err(), error.problems)
        stop(ExitCode.UNREADABLE, f"{path} is no archive of a rulebase: make one with opportune pack.")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        stop(ExitCode.UNREADABLE, f"{path} cannot be read: {error.strerror or error}")


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        stop(ExitCode.NO, f"{path} cannot be written: {error.strerror or error}")
