"""Python for variables and for operations, by the names that CEL's checker gives them."""

from __future__ import annotations

# Variables, and spaces of them, by name -> Python; {0} is the qualified name, {1} the plain one.
READ = {
    "event.type": "X.type",
    "place.name": "(None if X.place is None else X.place.name)",
    "place.categories": "(None if X.place is None else [*X.place.categories])",
    "zone": "zone_name(X.zone)",
}
READ_SPACE = {
    "event": "X.event.get({1!r})",
    "terminal": "X.terminal.get({1!r})",
    "peer": "X.peer.get({1!r})",
    "fact": "X.fact({1!r})",
    "calendar": "X.calendar.is_{1}(X.local.date())",
    "behaviour": "X.sub.get({0!r})",
    "scene": "X.sub.get({0!r})",
}

# Overload -> Python over the operands, none of which is None.
STRICT = {
    "add_int64": "in_range({0} + {1})",
    "subtract_int64": "in_range({0} - {1})",
    "multiply_int64": "in_range({0} * {1})",
    "divide_int64": "divide_int({0}, {1})",
    "modulo_int64": "modulo_int({0}, {1})",
    "negate_int64": "in_range(-{0})",
    "add_double": "{0} + {1}",
    "subtract_double": "{0} - {1}",
    "multiply_double": "{0} * {1}",
    "divide_double": "divide_double({0}, {1})",
    "negate_double": "-{0}",
    "add_string": "{0} + {1}",
    "int64_to_double": "{0} * 1.0",
    "starts_with_string": "{0}.startswith({1})",
    "ends_with_string": "{0}.endswith({1})",
    "contains_string": "{1} in {0}",
    "in_map": "{0} in {1}",
    "index_list": "item({0}, {1})",
    "index_map": "{0}.get({1})",
} | dict.fromkeys(
    ("string_size", "size_string", "list_size", "size_list", "map_size", "size_map"), "len({0})"
)
# Parts of the event's time, in the subscriber's zone or in UTC, as CEL counts them.
CALENDAR = {
    "getFullYear": "{}.year",
    "getMonth": "{}.month - 1",
    "getDate": "{}.day",
    "getDayOfMonth": "{}.day - 1",
    "getDayOfWeek": "{}.isoweekday() % 7",
    "getDayOfYear": "day_of_year({})",
    "getHours": "{}.hour",
    "getMinutes": "{}.minute",
    "getSeconds": "{}.second",
}
