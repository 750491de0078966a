"""Makes the Python stubs in `proto/gen` from the contract.

    python proto/generate.py            writes them anew
    python proto/generate.py --check    exit status 1, and a list, if they are not what the contract says

Needs grpcio-tools and mypy-protobuf at the versions pinned in pyproject.toml: other versions write
other bytes, and the check compares bytes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["differences", "generate"]

PROTO = Path(__file__).resolve().parent
PACKAGE = Path("opportune/v1")


def generate(out: Path) -> None:
    """Writes the stubs of every contract file under `out`, an existing directory.

    Raises `subprocess.CalledProcessError` if the contract does not compile; protoc has then said why.
    """
    every = sorted(path.relative_to(PROTO).as_posix() for path in (PROTO / PACKAGE).glob("*.proto"))
    services = [name for name in every if name.endswith("_service.proto")]
    _protoc(every, f"--python_out={out}", f"--mypy_out={out}")
    # Only services: for any other file these would be empty modules.
    _protoc(services, f"--grpc_python_out={out}", f"--mypy_grpc_out={out}")
    # The package is a namespace, so the marker for type checkers stands in its only subpackage.
    (out / PACKAGE / "py.typed").touch()


def differences(committed: Path) -> list[str]:
    """The files under `committed` that are missing, surplus or other than the contract says."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory)
        generate(fresh)
        wanted, present = _contents(fresh), _contents(committed)
    return sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))


def _protoc(files: list[str], *outputs: str) -> None:
    scripts = Path(sys.executable).parent
    plugins = [f"--plugin={name}={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *plugins, *outputs, *files]
    # The plugins say on stderr what they write; it is shown only if something is wrong.
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)  # noqa: S603  (own command)
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise subprocess.CalledProcessError(done.returncode, command)


def _contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def main(arguments: list[str]) -> int:
    committed = PROTO / "gen"
    if arguments == ["--check"]:
        stale = differences(committed)
        if stale:
            sys.stderr.write("stubs are not what the contract says; run `make proto`:\n")
            sys.stderr.writelines(f"  proto/gen/{name}\n" for name in stale)
        return 1 if stale else 0
    if arguments:
        sys.stderr.write(f"{__doc__}")
        return 2
    shutil.rmtree(committed / "opportune", ignore_errors=True)
    generate(committed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
