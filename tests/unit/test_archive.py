"""Archives of a rulebase: the same bytes each time, and nothing outside the bounds gets in."""

from __future__ import annotations

import io
import stat
import struct
import zipfile

import pytest
from opportune_rulebase import Code, RulebaseError, from_archive, to_archive
from opportune_rulebase.loading import archive

FILES = {"rulebase.yaml": b"rulebase: r\n", "campaigns/a.yaml": "标签".encode(), "tests/a_test.yaml": b""}


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as packed:
        for name, content in members:
            packed.writestr(name, content)
    return buffer.getvalue()


def codes_of(data: bytes) -> set[str]:
    with pytest.raises(RulebaseError) as caught:
        from_archive(data)
    return {problem.code for problem in caught.value.problems}


def test_what_was_packed_comes_out() -> None:
    assert from_archive(to_archive(FILES)) == FILES


def test_equal_files_give_equal_bytes_in_any_order() -> None:
    assert to_archive(dict(reversed(FILES.items()))) == to_archive(FILES)


def test_folders_are_skipped() -> None:
    assert from_archive(zip_of(("campaigns/", b""), ("a.yaml", b"x"))) == {"a.yaml": b"x"}


@pytest.mark.parametrize(
    "path",
    ["../a.yaml", "/etc/a.yaml", "a/../../b.yaml", "c:/a.yaml", "a//b.yaml", "./a", "a\tb", "x" * 300],
)
def test_paths_that_lead_elsewhere_are_refused(path: str) -> None:
    assert codes_of(zip_of((path, b""))) == {Code.BAD_PATH}
    with pytest.raises(RulebaseError):
        to_archive({path: b""})


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFBLK])
def test_special_members_are_refused(kind: int) -> None:
    info = zipfile.ZipInfo("a.yaml")
    info.create_system = 3
    info.external_attr = (kind | 0o644) << 16
    assert codes_of(zip_of((info, b"/etc/passwd"))) == {Code.BAD_ARCHIVE}


def test_duplicate_members_are_refused() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = zip_of(("a.yaml", b"1"), ("a.yaml", b"2"))
    assert codes_of(data) == {Code.BAD_ARCHIVE}


def test_unusual_compression_is_refused() -> None:
    assert codes_of(zip_of(("a.yaml", b"1"), method=zipfile.ZIP_BZIP2)) == {Code.BAD_ARCHIVE}


def test_encrypted_members_are_refused() -> None:
    data = bytearray(zip_of(("a.yaml", b"1")))
    data[6] |= 1  # the flag in the member's own header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and in the directory
    assert codes_of(bytes(data)) == {Code.BAD_ARCHIVE}


def test_a_bomb_is_stopped_at_the_bound() -> None:
    data = zip_of(("bomb.csv", bytes(archive.MAX_FILE_BYTES + 1)))
    assert len(data) < archive.MAX_FILE_BYTES // 100
    assert codes_of(data) == {Code.TOO_LARGE}


def test_a_size_that_lies_is_not_believed() -> None:
    data = bytearray(zip_of(("bomb.csv", bytes(archive.MAX_FILE_BYTES + 1))))
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = struct.pack("<I", 1)
    assert codes_of(bytes(data)) <= {Code.TOO_LARGE, Code.BAD_ARCHIVE}


def test_the_sum_of_sizes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 1_000)
    assert codes_of(zip_of(*((f"{n}.csv", bytes(400)) for n in range(3)))) == {Code.TOO_LARGE}


def test_too_many_members_are_refused() -> None:
    data = zip_of(*((f"{n}.yaml", b"") for n in range(archive.MAX_FILES + 1)), method=zipfile.ZIP_STORED)
    assert codes_of(data) == {Code.BAD_ARCHIVE}


def test_a_directory_larger_than_it_says_is_not_read() -> None:
    data = bytearray(zip_of(*((f"{n}.yaml", b"") for n in range(200))))
    data[-12:-10] = struct.pack("<H", 1)  # the count of members in the end record
    data[-10:-6] = struct.pack("<I", 1 << 30)
    assert codes_of(bytes(data)) == {Code.BAD_ARCHIVE}


@pytest.mark.parametrize(
    "data", [b"", b"not a zip", b"PK\x05\x06", to_archive(FILES) + b"more", bytes(100)]
)
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    assert codes_of(data) == {Code.BAD_ARCHIVE}


def test_a_damaged_archive_is_refused() -> None:
    data = bytearray(to_archive({"a.csv": bytes(range(256)) * 40}))
    data[50] ^= 0xFF
    assert codes_of(bytes(data)) == {Code.BAD_ARCHIVE}


@pytest.mark.parametrize("cut", range(1, 200, 7))
def test_a_cut_archive_is_refused(cut: int) -> None:
    assert codes_of(to_archive(FILES)[:-cut]) == {Code.BAD_ARCHIVE}
