"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import opportune_rulebase
import typer

RulebaseArgument = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", exists=True, file_okay=False, help="The directory that holds rulebase.yaml."
    ),
]
RulebaseOption = Annotated[
    Path | None,
    typer.Option(
        "--rulebase",
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="Rulebase directory. [default: the sample]",
        show_default=False,
    ),
]
SubscriberArgument = Annotated[
    str, typer.Argument(metavar="SUBSCRIBER", help="Digits of the number, no plus sign.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]
ShadowOption = Annotated[bool, typer.Option("--shadow", help="What the shadow decided: it went to nobody.")]
TargetOption = Annotated[
    str,
    typer.Option(
        "--target", metavar="HOST:PORT", envvar="OPPORTUNE_TARGET", help="Address of the running service."
    ),
]
DEFAULT_TARGET = "127.0.0.1:50051"
SAMPLE = "gprs-precision"


def rulebase_directory(chosen: Path | None) -> Path:
    """`chosen`, or the sample rulebase that comes with the distribution."""
    if chosen is not None:
        return chosen
    library = Path(opportune_rulebase.__file__).parent
    installed = library / "packs" / SAMPLE
    return installed if installed.is_dir() else library.parent / "packs" / SAMPLE
