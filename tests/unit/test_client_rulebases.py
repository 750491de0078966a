"""Packing a rulebase's directory: what the service's own reader takes, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from opportune_client import pack_rulebase
from opportune_rulebase import from_archive, to_archive

FILES = {"rulebase.yaml": b"name: x\n", "campaigns/a.yml": b"b: c\n", "tables/cells.csv": b"1,2\n"}


def written(top: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return top


def test_only_the_rulebase_is_packed_as_its_own_library_packs_it(tmp_path: Path) -> None:
    written(tmp_path, FILES | {".git/config.yaml": b"", "notes.txt": b"", "campaigns/.a.yaml.swp": b""})
    packed = pack_rulebase(tmp_path)
    assert from_archive(packed) == FILES
    assert packed == to_archive(FILES)


def test_a_directory_without_a_rulebase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rulebase\.yaml"):
        pack_rulebase(tmp_path)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    outside = written(tmp_path / "out", {"secret.yaml": b""})
    inside = written(tmp_path / "in", FILES)
    (inside / "stolen.yaml").symlink_to(outside / "secret.yaml")
    with pytest.raises(ValueError, match="leads out"):
        pack_rulebase(inside)
