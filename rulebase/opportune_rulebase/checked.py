"""Google's `cel.expr.CheckedExpr`, read into the nodes of `opportune_rulebase.nodes`.

The messages are described here, by the field numbers of the CEL specification (`checked.proto`,
`syntax.proto`), in a descriptor pool of their own: nothing is registered globally, and fields that
are not described are carried along untouched. Only what is read is described.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from itertools import count
from math import prod
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

from opportune_rulebase.nodes import Call, Constant, ListLiteral, Node, Opaque, Variable

# message -> its fields: (name, number, type). A type is a scalar, or a message; `*` repeats.
_MESSAGES: dict[str, tuple[tuple[str, int, str], ...]] = {
    "Reference": (("name", 1, "string"), ("overload_id", 3, "string*")),
    "ReferenceEntry": (("key", 1, "int64"), ("value", 2, "Reference")),
    "ListType": (("elem_type", 1, "Type"),),
    "MapType": (("key_type", 1, "Type"), ("value_type", 2, "Type")),
    "Abstract": (("name", 1, "string"), ("parameter_types", 2, "Type*")),
    "Type": (
        ("dyn", 1, "bytes"),
        ("null", 2, "int32"),
        ("primitive", 3, "int32"),
        ("wrapper", 4, "int32"),
        ("well_known", 5, "int32"),
        ("list_type", 6, "ListType"),
        ("map_type", 7, "MapType"),
        ("function", 8, "bytes"),
        ("message_type", 9, "string"),
        ("type_param", 10, "string"),
        ("type", 11, "Type"),
        ("error", 12, "bytes"),
        ("abstract_type", 14, "Abstract"),
    ),
    "TypeEntry": (("key", 1, "int64"), ("value", 2, "Type")),
    "Constant": (
        ("null_value", 1, "int32"),
        ("bool_value", 2, "bool"),
        ("int64_value", 3, "int64"),
        ("uint64_value", 4, "uint64"),
        ("double_value", 5, "double"),
        ("string_value", 6, "string"),
        ("bytes_value", 7, "bytes"),
    ),
    "Ident": (("name", 1, "string"),),
    "Select": (("operand", 1, "Expr"), ("field", 2, "string"), ("test_only", 3, "bool")),
    "CallExpr": (("target", 1, "Expr"), ("function", 2, "string"), ("args", 3, "Expr*")),
    "ListExpr": (("elements", 1, "Expr*"), ("optional_indices", 2, "int32*")),
    "StructEntry": (("id", 1, "int64"), ("map_key", 3, "Expr"), ("value", 4, "Expr")),
    "Struct": (("message_name", 1, "string"), ("entries", 2, "StructEntry*")),
    "Comprehension": (
        ("iter_var", 1, "string"),
        ("iter_var2", 8, "string"),
        ("iter_range", 2, "Expr"),
        ("accu_var", 3, "string"),
        ("accu_init", 4, "Expr"),
        ("loop_condition", 5, "Expr"),
        ("loop_step", 6, "Expr"),
        ("result", 7, "Expr"),
    ),
    "Expr": (
        ("id", 2, "int64"),
        ("const_expr", 3, "Constant"),
        ("ident_expr", 4, "Ident"),
        ("select_expr", 5, "Select"),
        ("call_expr", 6, "CallExpr"),
        ("list_expr", 7, "ListExpr"),
        ("struct_expr", 8, "Struct"),
        ("comprehension_expr", 9, "Comprehension"),
    ),
    "PositionEntry": (("key", 1, "int64"), ("value", 2, "int32")),
    "SourceInfo": (("positions", 4, "PositionEntry*"),),
    "CheckedExpr": (
        ("reference_map", 2, "ReferenceEntry*"),
        ("type_map", 3, "TypeEntry*"),
        ("expr", 4, "Expr"),
        ("source_info", 5, "SourceInfo"),
    ),
}
# Messages of which exactly one field is set. `WhichOneof` then tells which.
_ONE_OF = {"Type": "type_kind", "Constant": "constant_kind"}
_EXPR_KINDS = "expr_kind"
_TYPE_URL = "type.googleapis.com/cel.expr.CheckedExpr"

_PRIMITIVES = {1: "bool", 2: "int", 3: "uint", 4: "double", 5: "string", 6: "bytes"}
_WELL_KNOWN = {1: "any", 2: "timestamp", 3: "duration"}
_CONSTANTS = {
    "null_value": "null_type",
    "bool_value": "bool",
    "int64_value": "int",
    "uint64_value": "uint",
    "double_value": "double",
    "string_value": "string",
    "bytes_value": "bytes",
}
_FIELD_OF = {
    type(None): "null_value",
    bool: "bool_value",
    int: "int64_value",
    float: "double_value",
    str: "string_value",
    bytes: "bytes_value",
}


def _messages() -> Any:
    """Build the message classes; returns that of CheckedExpr."""
    file = descriptor_pb2.FileDescriptorProto(name="checked.proto", package="cel", syntax="proto3")
    field_types = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name in _ONE_OF or name == "Expr":
            message.oneof_decl.add(name=_ONE_OF.get(name, _EXPR_KINDS))
        for field, number, kind in fields:
            scalar = kind.rstrip("*")
            added = message.field.add(name=field, number=number)
            added.label = field_types.LABEL_REPEATED if kind.endswith("*") else field_types.LABEL_OPTIONAL
            if scalar in _MESSAGES:
                added.type, added.type_name = field_types.TYPE_MESSAGE, f".cel.{scalar}"
            else:
                added.type = field_types.Type.Value(f"TYPE_{scalar.upper()}")
            if message.oneof_decl and field != "id":
                added.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("cel.CheckedExpr"))


_CheckedExpr = _messages()


def parse(serialized: bytes) -> Any:
    """The CheckedExpr inside a serialized Any. Raises google.protobuf.message.DecodeError."""
    wrapped = any_pb2.Any()
    wrapped.ParseFromString(serialized)
    checked = _CheckedExpr()
    checked.ParseFromString(wrapped.value)
    return checked


class Parts:
    """A checked expression that can be cut at its nodes, which are numbered from 0 in the order of
    `nodes.walk`."""

    def __init__(self, serialized: bytes) -> None:
        self._whole = parse(serialized)
        self._nodes = list(_transparent(self._whole.expr))
        self._references = {entry.key: entry for entry in self._whole.reference_map}
        self._types = {entry.key: entry for entry in self._whole.type_map}

    def cut(self, ordinal: int) -> bytes:
        """The part that became this node, as a checked expression of its own: with what is known of its own
        nodes alone, for an expression may be cut into as many parts as it has nodes."""
        part = _CheckedExpr()
        part.expr.CopyFrom(self._nodes[ordinal])
        identities = [each.id for each in _everything(part.expr)]
        part.reference_map.extend(self._references[each] for each in identities if each in self._references)
        part.type_map.extend(self._types[each] for each in identities if each in self._types)
        return any_pb2.Any(type_url=_TYPE_URL, value=part.SerializeToString()).SerializeToString()


def with_constants(serialized: bytes, values: Mapping[str, object]) -> bytes:
    """A checked expression in which variables are replaced by their values: text, or lists or maps of what
    a literal can say."""
    checked = parse(serialized)
    ids = count(max((entry.key for entry in checked.type_map), default=0) + 1)
    for ident in list(_idents(checked.expr)):
        if ident.ident_expr.name in values:
            _set_constant(ident, values[ident.ident_expr.name], ids)
    return any_pb2.Any(type_url=_TYPE_URL, value=checked.SerializeToString()).SerializeToString()


def _set_constant(expr: Any, value: object, ids: Iterator[int]) -> None:
    if not expr.id:
        expr.id = next(ids)
    match value:
        case list() | tuple():
            expr.list_expr.SetInParent()
            for each in value:
                _set_constant(expr.list_expr.elements.add(), each, ids)
        case dict():
            expr.struct_expr.SetInParent()
            for key, each in value.items():
                entry = expr.struct_expr.entries.add(id=next(ids))
                _set_constant(entry.map_key, key, ids)
                _set_constant(entry.value, each, ids)
        case _:
            setattr(expr.const_expr, _FIELD_OF[type(value)], 0 if value is None else value)


def _operands(expr: Any) -> list[Any]:
    """What stands directly below a node that is not opaque, in the order of its `children`."""
    kind = expr.WhichOneof(_EXPR_KINDS)
    if kind == "call_expr":
        call = expr.call_expr
        return [call.target, *call.args] if call.HasField("target") else list(call.args)
    if kind == "list_expr" and not expr.list_expr.optional_indices:
        return list(expr.list_expr.elements)
    return []


def _transparent(expr: Any) -> Iterator[Any]:
    yield expr
    for operand in _operands(expr):
        yield from _transparent(operand)


def tree(checked: Any, declared: frozenset[str]) -> Node:
    """The typed tree of a checked expression; `declared` are the variables that count as read."""
    references = {entry.key: entry.value for entry in checked.reference_map}
    types = {entry.key: entry.value for entry in checked.type_map}

    return _node(checked.expr, references, types, declared)


def _node(
    expr: Any, references: Mapping[int, Any], types: Mapping[int, Any], declared: frozenset[str]
) -> Node:
    # No function within `tree`: one that calls itself is a cycle and keeps the message until collected.
    identity = expr.id
    kind = expr.WhichOneof(_EXPR_KINDS)
    if kind == "const_expr":
        return _constant(expr.const_expr)
    type_ = type_name(types[identity]) if identity in types else "dyn"
    if kind == "ident_expr" and expr.ident_expr.name in declared:
        return Variable(expr.ident_expr.name, type_)
    if kind == "call_expr":
        call = expr.call_expr
        overloads = tuple(references[identity].overload_id) if identity in references else ()
        operands = tuple(_node(each, references, types, declared) for each in _operands(expr))
        return Call(call.function, operands, type_, overloads)
    if kind == "list_expr" and not expr.list_expr.optional_indices:
        items = tuple(_node(each, references, types, declared) for each in _operands(expr))
        return ListLiteral(items, type_)
    return Opaque(
        kind.removesuffix("_expr"),
        type_,
        frozenset(each.ident_expr.name for each in _idents(expr)) & declared,
    )


def presence_tests(checked: Any, text: str, declared: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Every ``has(event.amount)`` over a whole variable: (its offset in `text`, the variable).

    CEL's checker takes the qualified name for the variable and forgets that its presence was asked. What
    betrays such a node is its place, which is that of the macro's bracket.
    """
    places = {entry.key: entry.value for entry in checked.source_info.positions}
    for ident in _idents(checked.expr):
        at = places.get(ident.id, -1)
        if ident.ident_expr.name in declared and 0 <= at < len(text) and text[at] == "(":
            yield text.rfind("has", 0, at), ident.ident_expr.name


def last_operands(serialized: bytes) -> Iterator[tuple[str, int, Constant | str, int]]:
    """Every call with operands, wherever it stands: (function, how many operands it has, the last one, its
    offset in the text). The last one is a constant, the name of a variable, or else empty."""
    checked = parse(serialized)
    places = {entry.key: entry.value for entry in checked.source_info.positions}
    variables = {ident.id: ident.ident_expr.name for ident in _idents(checked.expr)}
    for expr in _everything(checked.expr):
        operands = _operands(expr) if expr.WhichOneof(_EXPR_KINDS) == "call_expr" else []
        if operands:
            last = operands[-1]
            constant = last.WhichOneof(_EXPR_KINDS) == "const_expr"
            value = _constant(last.const_expr) if constant else variables.get(last.id, "")
            yield expr.call_expr.function, len(operands), value, places.get(last.id, 0)


def _constant(constant: Any) -> Constant:
    which = constant.WhichOneof("constant_kind")
    return Constant(None if which == "null_value" else getattr(constant, which), _CONSTANTS[which])


def growth(checked: Any) -> int:
    """How many times over the values of an expression may come to hold what went into them, roughly: a
    comprehension that uses its variable twice doubles it, and a chain of those doubles it every time. CEL
    bounds how often a comprehension runs, but not what it builds."""
    fixed = {entry.key for entry in checked.type_map if _is_of_fixed_size(entry.value)}

    loops = (e.comprehension_expr for e in _everything(checked.expr) if e.HasField("comprehension_expr"))
    return prod(max(1, _uses(loop.loop_step, loop.iter_var, fixed)) for loop in loops)


def _uses(expr: Any, name: str, fixed: Set[int]) -> int:
    if expr.id in fixed:
        return 0
    kind = expr.WhichOneof(_EXPR_KINDS)
    if kind == "ident_expr":
        return int(expr.ident_expr.name == name)
    if kind != "comprehension_expr":
        return sum(_uses(below, name, fixed) for below in _below(expr, kind))
    loop = expr.comprehension_expr
    inside = 0 if name in (loop.iter_var, loop.accu_var) else _uses(loop.loop_step, name, fixed)
    return _uses(loop.iter_range, name, fixed) + _REPEATED * inside


_REPEATED = 10
"""What using a variable of an outer comprehension in an inner one counts."""


def _is_of_fixed_size(type_: Any) -> bool:
    return type_name(type_) in (
        "bool",
        "int",
        "uint",
        "double",
        "timestamp",
        "duration",
        "null_type",
        "type",
    )


def _idents(expr: Any, local: frozenset[str] = frozenset()) -> Iterator[Any]:
    """Every node that is an identifier, at or below `expr`, whatever stands between, but for `local` ones:
    the variables of a comprehension."""
    kind = expr.WhichOneof(_EXPR_KINDS)
    if kind == "ident_expr":
        if expr.ident_expr.name not in local:
            yield expr
    elif kind == "comprehension_expr":
        loop = expr.comprehension_expr
        for outside in (loop.iter_range, loop.accu_init):
            yield from _idents(outside, local)
        inner = local | {loop.iter_var, loop.accu_var, loop.iter_var2}
        for inside in (loop.loop_condition, loop.loop_step, loop.result):
            yield from _idents(inside, inner)
    else:
        for below in _below(expr, kind):
            yield from _idents(below, local)


def _everything(expr: Any) -> Iterator[Any]:
    """The node and all below it, whatever stands between."""
    yield expr
    for below in _below(expr, expr.WhichOneof(_EXPR_KINDS)):
        yield from _everything(below)


def _below(expr: Any, kind: str) -> list[Any]:
    if kind == "select_expr":
        return [expr.select_expr.operand]
    if kind == "list_expr":
        return list(expr.list_expr.elements)
    if kind == "struct_expr":
        return [part for entry in expr.struct_expr.entries for part in (entry.map_key, entry.value)]
    if kind == "comprehension_expr":
        loop = expr.comprehension_expr
        return [loop.iter_range, loop.accu_init, loop.loop_condition, loop.loop_step, loop.result]
    return _operands(expr)


def type_name(type_: Any) -> str:
    """A checked type by the name that the language gives it: `int`, `list<string>`, `map<string, bool>`."""
    kind = type_.WhichOneof("type_kind")
    name = "dyn"
    match kind:
        case "primitive":
            name = _PRIMITIVES.get(type_.primitive, name)
        case "well_known":
            name = _WELL_KNOWN.get(type_.well_known, name)
        case "wrapper":
            name = f"wrapper<{_PRIMITIVES.get(type_.wrapper, name)}>"
        case "null":
            name = "null_type"
        case "list_type":
            name = f"list<{type_name(type_.list_type.elem_type)}>"
        case "map_type":
            name = f"map<{type_name(type_.map_type.key_type)}, {type_name(type_.map_type.value_type)}>"
        case "message_type" | "type_param":
            name = str(getattr(type_, kind))
        case "type":
            name = "type"
        case "abstract_type":
            name = str(type_.abstract_type.name)
    return name
