"""People at their terminals: commands with a token, over TLS, against a service that knows its callers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opportune_service.cli import app as cli
from support.callers import caller, token_line, tokens, write_callers
from support.server import Service, running_service
from support.tls import Authority
from typer.testing import CliRunner, Result


@dataclass(frozen=True, slots=True)
class Staff:
    """`directory` holds `ca.pem` and a file `NAME.token` for each of them."""

    service: Service
    directory: Path

    async def run(self, who: str, *arguments: object, code: int = 0, answer: str = "") -> Result:
        """A command of somebody, in this process but in a thread, as it waits for the service."""
        environment = {
            "OPPORTUNE_TARGET": self.service.address,
            "OPPORTUNE_CA": str(self.directory / "ca.pem"),
            "OPPORTUNE_TOKEN_FILE": str(self.directory / f"{who}.token"),
        }
        command = [str(each) for each in arguments]
        result = await asyncio.to_thread(
            lambda: CliRunner().invoke(cli, command, input=answer, env=environment)
        )
        assert result.exit_code == code, f"{command}: {result.output} {result.exception!r}"
        assert "Traceback" not in result.stderr
        return result

    async def json(self, who: str, *arguments: object, code: int = 0) -> Any:
        """What a command writes for programs."""
        return json.loads((await self.run(who, *arguments, "--json", code=code)).stdout)


@asynccontextmanager
async def staff(
    directory: Path, roles: Mapping[str, list[str]], files: Mapping[str, bytes], **more: Any
) -> AsyncIterator[Staff]:
    """A service on TLS with `files` active, and these people with their roles. `more` is for
    `running_service`."""
    known = tokens(*roles)
    lines = [caller(name, *held, tokens=[token_line(known[name])]) for name, held in roles.items()]
    callers = write_callers(directory / "callers.yaml", lines)
    for name, token in known.items():
        (directory / f"{name}.token").write_text(f"{token}\n")
    server = Authority(directory).sign("server")
    tls = {"tls_certificate": server.certificate, "tls_key": server.key}
    async with running_service(directory, files, callers=callers, **tls, **more) as service:
        yield Staff(service, directory)
