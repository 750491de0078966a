"""Templates of campaigns: `template: NAME` holds defaults, `like: NAME` takes them over."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from opportune_rulebase.errors import Position
from opportune_rulebase.loading.fields import Fields, check_name
from opportune_rulebase.loading.problems import Code, Report, clip
from opportune_rulebase.loading.source import ListNode, MapNode, Node, ScalarNode

Named = dict[str, tuple[ScalarNode, MapNode]]
"""Documents by their names, each with the node that names it."""

ANY_CONTENT: Final = "default"
"""The content of channels that have none of their own."""

MAX_INHERITED: Final = 200_000
"""Values that documents take from templates: as many as all files may hold. A short file could name a
template of ten thousand values ten thousand times."""

_BOTH: Final = "a document is a campaign or a template, not both"


def named_documents(documents: Iterable[Node], report: Report) -> tuple[Named, Named]:
    """The campaigns and the templates of `campaigns/`, as they are written.

    A file has one mapping, a list of them, or several documents. Errors go to `report`.
    """
    campaigns: Named = {}
    templates: Named = {}
    for document in documents:
        for node in document.items if isinstance(document, ListNode) else (document,):
            if not isinstance(node, MapNode):
                hint = "expected a mapping that begins with 'campaign: <name>' or 'template: <name>'"
                report.error(node.at, Code.WRONG_TYPE, hint)
                continue
            kind = "template" if "template" in node.values else "campaign"
            name = node.values.get(kind)
            if name is None:
                hint = "add 'campaign: <name>', or 'template: <name>' if it holds defaults for others"
                report.error(node.at, Code.MISSING_KEY, "the campaign has no name", hint)
            elif not isinstance(name, ScalarNode):
                report.error(name.at, Code.WRONG_TYPE, f"expected a name for {kind!r}")
            elif kind == "template" and "campaign" in node.values:
                report.error(node.keys["campaign"].at, Code.CONFLICTING_KEYS, _BOTH, "make two of it")
            elif check_name(report, name, kind):
                found = templates if kind == "template" else campaigns
                first, _ = found.setdefault(name.text, (name, node))
                if first is not name:
                    message = f"{kind} {name.text!r} is declared twice"
                    report.error(name.at, Code.DUPLICATE_NAME, message, f"see {first.at}")
    return campaigns, templates


def inherit(
    campaigns: Named,
    templates: Named,
    *,
    keys: Collection[str],
    channels: Collection[str],
    report: Report,
) -> Named:
    """The campaigns with all that they take from their templates; errors go to `report`.

    A key of the campaign replaces the template's; `content` is merged channel by channel, and what the
    template says for channels that the campaign does not use is left out. Values keep the place where
    they are written. A campaign whose template is unknown or wrong is left out: what it lacks is unknown.

    `keys`: those of a campaign, `channels`: those declared.
    """
    inherited = [key for key in keys if key != "campaign"]
    for name, (at, node) in templates.items():
        fields = Fields(report, node, f"template {name!r}", (*inherited, "template"), at=at.at)
        for channel, _ in fields.entries("content"):
            if channel.text != ANY_CONTENT and channel.text not in channels:
                report.unknown(channel.at, "channel", channel.text, (*channels, ANY_CONTENT))
    whole = _Templates(templates, inherited, report)
    found: Named = {}
    for name, (at, node) in campaigns.items():
        if "like" not in node.values:
            found[name] = (at, node)
        elif base := whole.of(node):
            found[name] = (at, _fitting(_merged(node, base), node))
    for unused, place in whole.unused():
        message = f"no campaign is like the template {unused!r}"
        report.warning(place, Code.UNUSED, message, "use it or remove it")
    return found


class _Templates:
    """Templates with all that they take from others, resolved when they are asked for."""

    def __init__(self, written: Named, keys: Collection[str], report: Report) -> None:
        self._written = written
        self._keys = frozenset(keys) - {"like"}
        self._report = report
        self._whole: dict[str, MapNode | None] = {}
        self._left = MAX_INHERITED

    def of(self, node: MapNode) -> MapNode | None:
        """What a document is like; None if that is unknown or wrong, which is then in the report."""
        name = self._like(node)
        if not name:
            return None
        if name not in self._whole:
            self._resolve(name)
        base = self._whole[name]
        return base if base is not None and self._afford(node, base) else None

    def unused(self) -> list[tuple[str, Position]]:
        """Name and place of each that nothing asked for so far; their faults are reported too."""
        names = [name for name in self._written if name not in self._whole]
        for name in names:
            if name not in self._whole:
                self._resolve(name)
        return [(name, self._written[name][0].at) for name in names]

    def _like(self, node: MapNode) -> str | None:
        """The template that a document names: None for none, "" for one that does not exist."""
        like = node.values.get("like")
        if like is None:
            return None
        if not isinstance(like, ScalarNode) or like.is_null:
            self._report.error(like.at, Code.WRONG_TYPE, "expected the name of a template for 'like'")
            return ""
        if like.text not in self._written:
            self._report.unknown(like.at, "template", like.text, self._written)
            return ""
        return like.text

    def _resolve(self, name: str) -> None:
        path: dict[str, None] = {}
        following: str | None = name
        while following and following not in self._whole and following not in path:
            path[following] = None
            following = self._like(self._written[following][1])
        if following in path:
            names = list(path)
            circle = [*names[names.index(following) :], following]
            self._report.error(
                self._written[following][0].at,
                Code.CIRCLE,
                f"templates are like each other in a circle: {clip(' -> '.join(circle), 400)}",
                "break it at one of them",
            )
            self._whole.update(dict.fromkeys(path))
            return
        base = self._whole[following] if following else None
        wrong = following is not None and base is None
        for each in reversed(path):
            node = _only(self._written[each][1], self._keys)
            if base is not None:
                wrong = wrong or not self._afford(node, base)
                node = _merged(node, base)
            base = self._whole[each] = None if wrong else node

    def _afford(self, node: MapNode, base: MapNode) -> bool:
        """Whether what all documents take from templates, written out, is within bounds with this one."""
        if self._left < 0:
            return False
        self._left -= _size(base)
        if self._left < 0:
            message = f"more than {MAX_INHERITED} values are taken from templates in all"
            self._report.error(node.at, Code.TOO_MANY, message, "put less into the templates")
        return self._left >= 0


def _size(node: Node | None) -> int:
    """The number of values in a node."""
    if isinstance(node, MapNode):
        return 1 + sum(map(_size, node.values.values()))
    return 1 + (len(node.items) if isinstance(node, ListNode) else 0)


def _merged(own: MapNode, base: MapNode) -> MapNode:
    values = {**base.values, **own.values}
    ours, theirs = own.values.get("content"), base.values.get("content")
    if isinstance(ours, MapNode) and isinstance(theirs, MapNode):
        values["content"] = MapNode({**theirs.keys, **ours.keys}, {**theirs.values, **ours.values}, ours.at)
    return MapNode({**base.keys, **own.keys}, values, own.at)


def _fitting(node: MapNode, own: MapNode) -> MapNode:
    """`node` without inherited content for channels that it does not use."""
    content, written = node.values.get("content"), own.values.get("content")
    if not isinstance(content, MapNode):
        return node
    channels = node.values.get("channels")
    listed = channels.items if isinstance(channels, ListNode) else (channels,)
    kept = {each.text for each in listed if isinstance(each, ScalarNode)} | {ANY_CONTENT}
    if isinstance(written, MapNode):
        kept |= written.keys.keys()
    return MapNode(node.keys, {**node.values, "content": _only(content, kept)}, node.at)


def _only(node: MapNode, keys: Collection[str]) -> MapNode:
    return MapNode(
        {key: each for key, each in node.keys.items() if key in keys},
        {key: each for key, each in node.values.items() if key in keys},
        node.at,
    )
