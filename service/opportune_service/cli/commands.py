"""Which commands there are, and how each ends when something is wrong."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from opportune_client.errors import AccessError, UnavailableError
from opportune_client.errors import OpportuneError as CallError
from opportune_rulebase.errors import RulebaseError
from pydantic import ValidationError
from typer.core import TyperGroup

from opportune_service.app.errors import OpportuneError, RulebaseRefusedError, StoreUnavailableError
from opportune_service.cli.problems import show_problems
from opportune_service.cli.terminal import ExitCode, err, mask_numbers, stop

COMMANDS = {
    "dev": "dev:dev_command",
    "serve": "serve:serve_command",
    "new": "new:new_command",
    "check": "check:check_command",
    "eval": "eval:eval_command",
    "test": "cases:cases_command",
    "fmt": "fmt:fmt_command",
    "graph": "graph:graph_command",
    "schema": "schema:schema_command",
    "diff": "diff:diff_command",
    "pack": "signing:pack_command",
    "sign": "signing:sign_command",
    "verify": "signing:verify_command",
    "send": "send:send_command",
    "advise": "remote:advise_command",
    "counter": "counter:counter_command",
    "tail": "remote:tail_command",
    "explain": "remote:explain_command",
    "why-not": "why_not:why_not_command",
    "report": "report:report_command",
    "smpp": "channels:smpp_command",
    "interface-files": "channels:interface_files_command",
    "quarantine": "quarantine:quarantine_command",
    "contacts": "contacts:contacts_command",
    "consent": "consent:consent_command",
    "erase": "erase:erase_command",
    "export": "export:export_command",
    "pause": "pauses:pause_command",
    "resume": "pauses:resume_command",
    "deadletters": "deadletters:deadletters_command",
    "rulebases": "rulebases:rulebases",
    "reload": "remote:reload_command",
    "replay": "replay:replay_command",
    "rehearse": "rehearse:rehearse_command",
    "simulate": "simulate:simulate_command",
    "health": "remote:health_command",
    "migrate": "migrate:migrate_command",
    "backup": "ledger:backup_command",
    "restore": "ledger:restore_command",
    "prune": "ledger:prune_command",
    "doctor": "doctor:doctor_command",
    "token": "token:token_command",
    "settings": "settings:settings_command",
    "version": "version:version_command",
}
"""Name -> module and function, or group. Imported when asked for: a health check needs no database."""


_WrongCommandLine: Any = typer.BadParameter.__base__
"""Which has no public name of its own."""


class Commands(TyperGroup):
    """The `opportune` command: expected errors end it with one line and an exit code, never a traceback."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(f"{__package__}.{module}"), function)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        alone.command(cmd_name)(found)
        return typer.main.get_command(alone)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (RulebaseRefusedError, RulebaseError) as error:
            show_problems(err(), error.problems)
            stop(ExitCode.NO, "The rulebase has errors; nothing was changed.")
        except UnavailableError as error:
            stop(ExitCode.UNAVAILABLE, f"The service cannot be reached or does not answer: {error}")
        except StoreUnavailableError as error:
            stop(ExitCode.UNAVAILABLE, str(error))
        except AccessError as error:
            hint = ""
            if error.reason == "UNAUTHENTICATED":
                hint = " Set OPPORTUNE_TOKEN_FILE, or OPPORTUNE_CERTIFICATE and OPPORTUNE_KEY."
            stop(ExitCode.NO, f"The service does not let this through: {error}.{hint}")
        except (OpportuneError, CallError) as error:
            stop(ExitCode.NO, str(error))
        except _WrongCommandLine as error:
            error.message = mask_numbers(error.message)  # it quotes what was typed
            raise
        except ValidationError as error:
            stop(ExitCode.USAGE, settings_fault(error))


def settings_fault(error: ValidationError) -> str:
    """What is wrong with the settings, a line for each."""
    return "\n".join(_setting(fault) for fault in error.errors())


def _setting(fault: Any) -> str:
    """One wrong setting, by the name that the environment gives it."""
    # Imported already: this fault comes from there. Other commands start a fifth of a second sooner.
    from opportune_service.settings import PREFIX, hint_for  # noqa: PLC0415

    name = ".".join(str(part) for part in fault["loc"]).removeprefix(PREFIX)
    if fault["type"] == "extra_forbidden":
        return f"There is no setting {name} ({PREFIX}{name.upper()}): {hint_for(name)}"
    return f"The setting {name} ({PREFIX}{name.upper()}) is wrong: {fault['msg']}"
