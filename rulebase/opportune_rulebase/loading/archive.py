"""A rulebase as one archive: packed the same way each time, unpacked within bounds and in memory."""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Mapping
from typing import Final

from opportune_rulebase.errors import Position, RulebaseError
from opportune_rulebase.loading.problems import Code, Report, clip

MAX_FILES: Final = 10_000
MAX_FILE_BYTES: Final = 16 << 20
MAX_TOTAL_BYTES: Final = 64 << 20
MAX_ARCHIVE_BYTES: Final = 32 << 20
MAX_PATH: Final = 200

_END_BYTES: Final = 22  # the record that ends an archive without a comment
_END_SIGN: Final = b"PK\x05\x06"
_ZIP64_BYTES: Final = 20  # stands before that record in an archive of more than 65,535 members
_ZIP64_SIGN: Final = b"PK\x06\x07"
_DIRECTORY_BYTES: Final = MAX_FILES * (46 + 64)  # a directory entry and an ample path
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say


def to_archive(files: Mapping[str, bytes]) -> bytes:
    """Pack files into a zip archive: sorted, without times or owners.

    Equal files give equal bytes with the same zlib. Raises RulebaseError for paths and sizes that
    `from_archive` would refuse.
    """
    report = Report()
    check_files(files, report)
    _raise_if_failed(report)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            info = zipfile.ZipInfo(path, _EPOCH)
            info.create_system = 3  # Unix, wherever it was packed
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[path])
    return buffer.getvalue()


def from_archive(data: bytes) -> dict[str, bytes]:
    """Unpack a zip archive into path -> content, in memory.

    Raises RulebaseError with everything that is refused: what is not a plain zip archive, absolute
    paths and paths with `..`, symbolic links and other special members, duplicate or encrypted ones,
    too many or too large ones. Sizes are counted while unpacking, not believed.
    """
    report = Report()
    if len(data) > MAX_ARCHIVE_BYTES:
        message = f"the archive has {len(data)} bytes; at most {MAX_ARCHIVE_BYTES} are allowed"
        report.error(
            Position("archive"), Code.TOO_LARGE, message, "take out what is no part of the rulebase"
        )
    elif reason := suspicious(data):
        report.error(
            Position("archive"), Code.BAD_ARCHIVE, reason, "pack the rulebase again as a plain zip"
        )
    _raise_if_failed(report)
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            _check_members(members, report)
            _raise_if_failed(report)
            left = MAX_TOTAL_BYTES
            for info in members:
                with archive.open(info) as member:
                    content = member.read(min(MAX_FILE_BYTES, left) + 1)
                left -= len(content)
                if left < 0 or len(content) > MAX_FILE_BYTES:
                    message = f"more than {MAX_FILE_BYTES} bytes, or {MAX_TOTAL_BYTES} in all"
                    report.error(Position(clip(info.filename)), Code.TOO_LARGE, message, "make it smaller")
                    break
                files[info.filename] = content
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        message = f"the archive is damaged: {clip(str(error), 200)}"
        report.error(
            Position("archive"), Code.BAD_ARCHIVE, message, "pack the rulebase again as a plain zip"
        )
    _raise_if_failed(report)
    return files


def check_files(files: Mapping[str, bytes], report: Report) -> bool:
    """Whether paths, number and sizes are within bounds; what is not goes to `report`."""
    for path in files:
        _check_path(path, report)
    if len(files) > MAX_FILES:
        message = f"the rulebase has {len(files)} files; at most {MAX_FILES} are allowed"
        report.error(Position(""), Code.TOO_MANY, message, "put several campaigns into one file")
    total = sum(map(len, files.values()))
    if total > MAX_TOTAL_BYTES:
        message = f"the rulebase has {total} bytes; at most {MAX_TOTAL_BYTES} are allowed"
        report.error(Position(""), Code.TOO_LARGE, message, "take out what is no part of it")
    for path, content in files.items():
        if len(content) > MAX_FILE_BYTES:
            message = f"the file has {len(content)} bytes; at most {MAX_FILE_BYTES} are allowed"
            report.error(Position(clip(path)), Code.TOO_LARGE, message, "make it smaller")
    return not report.failed


def suspicious(data: bytes) -> str:
    """Why this is no plain, small zip archive; empty if it is.

    The directory's size is read here because zipfile reads the whole of it, however many entries it
    has, before one can count them.
    """
    end = data[-_END_BYTES:]
    if len(end) < _END_BYTES or end[:4] != _END_SIGN:
        return "this is not a zip archive, or something follows it"
    if data[-_END_BYTES - _ZIP64_BYTES : -_END_BYTES][:4] == _ZIP64_SIGN:
        return f"the archive has more than {MAX_FILES} members"
    members = int.from_bytes(end[10:12], "little")
    if members > MAX_FILES or int.from_bytes(end[12:16], "little") > _DIRECTORY_BYTES:
        return f"the archive has more than {MAX_FILES} members"
    return ""


def _check_members(members: list[zipfile.ZipInfo], report: Report) -> None:
    if len(members) > MAX_FILES:
        message = f"the archive has more than {MAX_FILES} members"
        report.error(Position("archive"), Code.TOO_MANY, message, "put several campaigns into one file")
        return
    seen: set[str] = set()
    for info in members:
        at = Position(clip(info.filename))
        _check_path(info.filename, report)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in {0, stat.S_IFREG}:
            report.error(
                at, Code.BAD_ARCHIVE, "the member is no plain file", "put the file itself into the archive"
            )
        if info.flag_bits & 0x1:
            report.error(at, Code.BAD_ARCHIVE, "the member is encrypted", "pack it without a password")
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            report.error(
                at, Code.BAD_ARCHIVE, "the member is packed in an unusual way", "use the deflate method"
            )
        if info.filename in seen:
            report.error(at, Code.BAD_ARCHIVE, "the member is in the archive twice", "keep one of them")
        seen.add(info.filename)


def _check_path(path: str, report: Report) -> None:
    parts = path.split("/")
    unsafe = "\\" in path or ":" in path or not path.isprintable() or len(path) > MAX_PATH
    if unsafe or any(part in {"", ".", ".."} for part in parts):
        report.error(
            Position(clip(repr(path)[1:-1])),
            Code.BAD_PATH,
            "the path is not a plain relative path",
            f"use at most {MAX_PATH} characters, with / between names and no '..'",
        )


def _raise_if_failed(report: Report) -> None:
    if report.failed:
        raise RulebaseError(report.problems({}))
