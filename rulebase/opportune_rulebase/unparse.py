"""A typed tree back as CEL text, so that equal conditions can be told and evaluated together."""

from __future__ import annotations

from math import isfinite

from opportune_rulebase.nodes import Call, Constant, ListLiteral, Node, Variable

_INFIX = {
    "_&&_": "&&",
    "_||_": "||",
    "_==_": "==",
    "_!=_": "!=",
    "_<_": "<",
    "_<=_": "<=",
    "_>_": ">",
    "_>=_": ">=",
    "_+_": "+",
    "_-_": "-",
    "_*_": "*",
    "_/_": "/",
    "_%_": "%",
    "@in": "in",
}
_PREFIX = {"!_": "!", "-_": "-"}
# CEL's functions that are written without a receiver; `size` may be either, as its overload says.
_GLOBAL = frozenset(
    ("bool", "bytes", "double", "duration", "dyn", "int", "size", "string", "timestamp", "type", "uint")
)


def unparse(node: Node) -> str | None:
    """CEL text with the meaning of `node`; None where the tree does not say all (comprehensions, maps).

    Operators are fully bracketed. Equal trees give equal text.
    """
    match node:
        case Constant():
            return _constant(node)
        case Variable(name=name):
            return name
        case ListLiteral(items=items):
            inner = _join(items)
            return None if inner is None else f"[{inner}]"
        case Call():
            return _call(node)
    return None


def _join(nodes: tuple[Node, ...]) -> str | None:
    texts = [unparse(each) for each in nodes]
    known = [text for text in texts if text is not None]
    return ", ".join(known) if len(known) == len(texts) else None


def _call(node: Call) -> str | None:
    inner = _join(node.args)
    if inner is None:
        return None
    name, parts = node.function, [unparse(each) for each in node.args]
    if name in _INFIX:
        text = f"({parts[0]} {_INFIX[name]} {parts[1]})"
    elif name in _PREFIX:
        # In brackets of its own, or `-` before a number would be read as part of it.
        operand = f"({parts[0]})" if isinstance(node.args[0], Constant) else parts[0]
        text = f"({_PREFIX[name]}{operand})"
    elif name == "_?_:_":
        text = f"({parts[0]} ? {parts[1]} : {parts[2]})"
    elif name == "_[_]":
        text = f"{parts[0]}[{parts[1]}]"
    elif name in _GLOBAL and not any(each.endswith("_size") for each in node.overloads):
        text = f"{name}({inner})"
    elif name.isidentifier():
        text = f"({parts[0]}).{name}({_join(node.args[1:])})"
    else:
        return None
    return text


def _constant(node: Constant) -> str | None:
    match node.value:
        case None:
            return "null"
        case bool() as truth:
            return str(truth).lower()
        case int() as number:
            return f"{number}u" if node.type == "uint" else str(number)
        case float() as number if isfinite(number):
            return repr(number)
        case str() as text:
            return f"'{''.join(map(_escaped, text))}'"
    return None


def _escaped(character: str) -> str:
    number = ord(character)
    if 0x20 <= number < 0x7F and character not in "'\\":
        return character
    return f"\\U{number:08x}"
