"""The reference of settings is made from the code; run with OPPORTUNE_UPDATE_GOLDEN=1 to write it anew."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import NoneType
from typing import get_args

from opportune_service.settings import PREFIX, Settings
from pydantic.fields import FieldInfo

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"

_HEAD = f"""# Settings

*Made from `service/opportune_service/settings.py`; a test compares.*

Each setting has one name. It is taken from, in this order:

1. an option of the command line, where a command has one (`opportune serve --metrics-listen`);
2. the environment: `{PREFIX}` and the name in capitals, such as `{PREFIX}LISTEN`;
3. a file in TOML: `opportune.toml` in the working directory, or the one that `--config` or `{PREFIX}CONFIG`
   names;
4. the default.

```toml
listen = "0.0.0.0:50051"
database = "sqlite:////var/lib/opportune/opportune.db"
drain_seconds = 20
```

An unknown name and a wrong value are refused at start, in the file as in the environment.
`opportune settings` shows what holds and where it comes from, without passwords. Put passwords into the
environment, not into the file.

| setting | type | default | meaning |
|---|---|---|---|
"""


def page() -> str:
    return _HEAD + "".join(map(row, Settings.model_fields, Settings.model_fields.values()))


def row(name: str, field: FieldInfo) -> str:
    assert field.description, f"{name} has no docstring"
    meaning = re.sub(r"``([^`]*)``", r"`\1`", " ".join(field.description.split()))
    default = "" if field.default in (None, "") else f"`{_text(field.default)}`"
    return f"| `{name}` | {_type(field)} | {default} | {meaning} |\n"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _type(field: FieldInfo) -> str:
    kinds = [each for each in get_args(field.annotation) or (field.annotation,) if each is not NoneType]
    names = {bool: "true or false", str: "text", Path: "path", int: "whole number", float: "number"}
    kind = names.get(kinds[0]) or " or ".join(f"`{each.value}`" for each in kinds[0])
    bounds = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
    said = [
        text.format(f"{getattr(each, key):g}")
        for each in field.metadata
        for key, text in bounds.items()
        if hasattr(each, key)
    ]
    return ", ".join([kind, *said])


def test_the_page_is_what_the_code_says() -> None:
    made = page()
    if os.environ.get("OPPORTUNE_UPDATE_GOLDEN"):
        PAGE.write_text(made, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == made, "the settings changed; see the top of this file"


def test_every_setting_has_a_row() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows == set(Settings.model_fields)
