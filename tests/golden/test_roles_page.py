"""The matrix of methods and roles is made from the contract; run with OPPORTUNE_UPDATE_GOLDEN=1 to write it
anew. That the service keeps it is tried in grpc/test_authority.py."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

from opportune_service.adapters.files.callers import read_callers
from opportune_service.adapters.grpc import errors
from opportune_service.adapters.grpc.certificates import Certificates
from opportune_service.adapters.grpc.roles import roles_of
from opportune_service.adapters.grpc.server import SERVICES
from opportune_service.app.callers import ROLES
from opportune_service.settings import Settings
from support.rulebases import NOON_US

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "roles.md"
GUIDE = ROOT / "docs" / "guides" / "security.md"
_MATRIX = re.compile(
    r"(?<=<!-- made from the contract, a test compares -->\n).*(?=<!-- end -->)", re.DOTALL
)


def matrix() -> str:
    rows = [f"| method | {' | '.join(ROLES)} |\n|---|{':-:|' * len(ROLES)}\n"]
    for name, service in SERVICES.items():
        for method, opened_by in roles_of(service).items():
            marks = ("x" if f"ROLE_{role.upper()}" in opened_by else "" for role in ROLES)
            rows.append(f"| `{name}.{method}` | {' | '.join(marks)} |\n")
    return "".join(rows)


def test_the_matrix_is_what_the_contract_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    if os.environ.get("OPPORTUNE_UPDATE_GOLDEN"):
        page = _MATRIX.sub(lambda _: matrix(), page)
        PAGE.write_text(page, encoding="utf-8")
    assert _MATRIX.findall(page) == [matrix()], "the contract changed; see the top of this file"


def test_every_role_is_described() -> None:
    described = re.findall(r"^- \*\*(\w+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert tuple(described) == ROLES


def test_every_reason_of_an_error_is_listed_with_its_code() -> None:
    listed = re.findall(
        r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    known = {(reason, code.name) for code, reason in errors._CODES.values()} | {("INTERNAL", "INTERNAL")}
    assert sorted(listed) == sorted(known)


def test_the_commands_of_the_guide_make_certificates_that_work(tmp_path: Path) -> None:
    [commands] = re.findall(
        r"^```sh\n(openssl .*?)^```", GUIDE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    subprocess.run(["bash", "-euc", commands], cwd=tmp_path, check=True, capture_output=True)
    [settings] = re.findall(r"^```toml\n(.*?)^```", GUIDE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    named = tomllib.loads(settings)
    Certificates(*(tmp_path / named[each] for each in ("tls_certificate", "tls_key", "tls_client_ca")))
    for name, purpose in (("server", "sslserver"), ("ggsn-1", "sslclient")):
        verify = ["openssl", "verify", "-CAfile", "ca.pem", "-purpose", purpose, f"{name}.pem"]
        subprocess.run(verify, cwd=tmp_path, check=True, capture_output=True)
    Settings(**named)


def test_the_callers_of_the_guide_are_in_order(tmp_path: Path) -> None:
    [text] = re.findall(
        r"^```yaml\n(# callers\.yaml\n.*?)^```", GUIDE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    path = tmp_path / "callers.yaml"
    path.write_text(text, encoding="utf-8")
    read = read_callers(path, NOON_US)
    assert read.expired == ()
    held = {role for each in read.register.callers for role in each.caller.roles}
    assert held == {f"ROLE_{role.upper()}" for role in ROLES}, "it shows every role once"
    assert {each.caller.branches for each in read.register.callers} > {None}
    assert any(each.tokens for each in read.register.callers)
    assert any(each.certificates for each in read.register.callers)
