"""Rulebases packed for the wire."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from opportune.v1 import rulebase_service_pb2 as pb

MAX_ARCHIVE_BYTES: Final = 16 << 20
"""What the service takes."""

_SUFFIXES: Final = frozenset({".yaml", ".yml", ".csv", ".xlsx"})
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say: equal files, equal bytes

Source = Path | str | bytes
"""A rulebase's directory, a zip file of it, or the bytes of one."""


def pack_rulebase(directory: Path | str) -> bytes:
    """A zip of a rulebase's directory: its YAML and CSV files, hidden ones left out, sorted, no times.

    Equal files give equal bytes. ValueError: there is no rulebase.yaml, a link leads out of the
    directory, or the archive would be larger than the service takes. OSError: a file cannot be read.
    """
    top = Path(directory)
    if not (top / "rulebase.yaml").is_file():
        raise ValueError(f"{top} holds no rulebase.yaml; name the directory that does")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(_files(top)):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # Unix, wherever it was packed
            info.external_attr = 0o100644 << 16  # a plain file that everybody may read
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, path.read_bytes())
    if buffer.tell() > MAX_ARCHIVE_BYTES:
        raise ValueError(
            f"{top} packs to more than {MAX_ARCHIVE_BYTES} bytes; take out what is no part of it"
        )
    return buffer.getvalue()


def _files(top: Path) -> Iterator[tuple[str, Path]]:
    root = top.resolve()
    for path in top.rglob("*"):
        relative = path.relative_to(top)
        hidden = any(part.startswith(".") for part in relative.parts)
        if hidden or path.suffix not in _SUFFIXES or not path.is_file():
            continue
        if not path.resolve().is_relative_to(root):
            raise ValueError(f"{relative} is a link that leads out of the rulebase; copy the file into it")
        yield relative.as_posix(), path


def archive_of(rulebase: Source, signature: bytes = b"") -> pb.RulebaseArchive:
    """The message. Errors as `pack_rulebase`."""
    if isinstance(rulebase, bytes):
        data = rulebase
    else:
        path = Path(rulebase)
        data = pack_rulebase(path) if path.is_dir() else path.read_bytes()
    return pb.RulebaseArchive(format=pb.ARCHIVE_FORMAT_ZIP, data=data, signature=signature)
