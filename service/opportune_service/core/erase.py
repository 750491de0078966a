"""Erasure: take one subscriber's number out of the record and out of what is known of others.

What is the subscriber's own goes. Others may have said the number: whom they called, who belongs to their
family. There a **stand-in** takes its place, the same one everywhere within one erasure, so that how many
different people somebody called, and every sum and pattern, comes to what it was. The stand-in is a number
that nobody has, drawn at random by the caller and kept nowhere.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from opportune_service.core.backfill import Fill
from opportune_service.core.events import ContextRecord, Due, Encoding, Event
from opportune_service.core.state import Series, SubscriberState

Item = Event | ContextRecord | Fill | Due

STAND_IN_DIGITS = 15
"""As long as a number may be; it begins with 0, as no number in international form does."""

_WHOLE_DIGITS = 10
"""A whole number that equals a subscriber's is taken for it if it has as many digits."""

_ESCAPED_DIGIT = b"\\u003"
"""How a digit may begin in JSON; nobody has a reason to write one so."""

_JSON = msgspec.json.Decoder()
_MSGPACK = msgspec.msgpack.Decoder()
_RAW_JSON = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW_MSGPACK = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_encode_json = msgspec.json.Encoder().encode
_encode = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(SubscriberState).decode


class Erasing:
    """One erasure: `number` goes, and `stand_in` takes its place in what is others'."""

    def __init__(self, number: str, stand_in: str) -> None:
        self.number = number
        self._stand_in = stand_in
        # Alone, not as a part of a longer number.
        self._alone = re.compile(rf"(?<!\d){number}(?!\d)")
        self._as_text = number.encode()
        # A short one may be a figure as well, which must not change.
        whole = len(number) >= _WHOLE_DIGITS and number[0] != "0"
        self._integer = int(number) if whole else None
        # As MessagePack has them: the end of whichever integer type the sender chose, and a double.
        self._forms = [self._as_text, _ESCAPED_DIGIT]
        if self._integer is not None:
            length = 4 if self._integer < 2**32 else 8
            self._forms += [self._integer.to_bytes(length, "big"), struct.pack(">d", self._integer)]

    def may_name(self, data: bytes) -> bool:
        """Whether encoded data may name the number; cheap, and never wrongly False."""
        return any(form in data for form in self._forms)

    def names(self, text: str) -> bool:
        """Whether text names the number."""
        return self._alone.search(text) is not None

    def items(self, items: Sequence[Item]) -> tuple[list[Item], set[str]]:
        """What is left of a row of the log, in order, and the others who named the number in it."""
        left: list[Item] = []
        others: set[str] = set()
        for item in items:
            if item.subscriber_id == self.number:
                continue
            without = self._item(item)
            if without != item:
                others.add(item.subscriber_id)
            left.append(without)
        return left, others

    def _item(self, item: Item) -> Item:
        if isinstance(item, Event):
            return msgspec.structs.replace(
                item,
                id=self._alone.sub(self._stand_in, item.id),
                attributes=self._attributes(item.attributes, item.encoding),
            )
        if isinstance(item, ContextRecord):
            return msgspec.structs.replace(item, attributes=self.without(item.attributes))
        if isinstance(item, Fill):
            return msgspec.structs.replace(
                item, series={key: self._series(each) for key, each in item.series.items()}
            )
        return item

    def _attributes(self, data: bytes, encoding: Encoding) -> bytes:
        if not self.may_name(data):
            return data
        is_json = encoding is Encoding.JSON
        attributes = _RAW_JSON.decode(data) if is_json else _RAW_MSGPACK.decode(data)
        decode = _JSON.decode if is_json else _MSGPACK.decode
        without = {self.without(name): self._said(each, decode) for name, each in attributes.items()}
        if without == attributes:
            return data
        return _encode_json(without) if is_json else _encode(without)

    def _said(self, attribute: msgspec.Raw, decode: Callable[[msgspec.Raw], Any]) -> object:
        """An encoded attribute without the number; itself if it does not name it."""
        try:
            value = decode(attribute)
            without = self.without(value)
            same = without == value
        except RecursionError:
            return None  # nested more deeply than anything that is declared: nobody reads it
        return attribute if same else without

    def state(self, state: SubscriberState) -> SubscriberState | None:
        """Somebody else's live state with the stand-in; None if it does not name the number."""
        encoded = _encode(state)
        if not self.may_name(encoded):
            return None
        without = _decode_state(_encode(self.without(_MSGPACK.decode(encoded))))
        without.series = {key: self._series(each) for key, each in without.series.items()}
        return without

    def _series(self, series: Series) -> Series:
        """Of different values: they are kept in order, and the stand-in has another place in it."""
        amounts = self.without(series.amount)
        pairs = list(zip(series.at, amounts, strict=False))
        if not all(isinstance(amount, str) for amount in amounts):
            return Series(series.at, amounts)
        pairs.sort()
        return Series([at for at, _ in pairs], [amount for _, amount in pairs])

    def without(self, value: Any) -> Any:
        """Decoded data with the stand-in wherever the number stood."""
        match value:
            case str():
                return self._alone.sub(self._stand_in, value)
            case dict():
                return {self.without(name): self.without(each) for name, each in value.items()}
            case list() | tuple():
                return [self.without(each) for each in value]
            case bool():
                return value
            case int() if value == self._integer:
                return int(self._stand_in)
            case float() if value == self._integer:
                return float(self._stand_in)
            case bytes() | msgspec.msgpack.Ext():
                return None  # no attribute is declared as such: nobody reads it
        return value
