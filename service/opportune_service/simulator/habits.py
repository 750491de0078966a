"""What kinds of people there are, how their days pass and what they do: tables only, no logic."""

from __future__ import annotations

from dataclasses import dataclass

Schedules = tuple[tuple[int, str], ...]
"""Weighted days. A day is 24 letters, one an hour, each a kind of place (see `PLACE_KINDS`)."""

PLACE_KINDS: dict[str, tuple[str, ...]] = {
    "H": ("residential", "village"),  # home: fixed for each person
    "W": ("office", "bank", "government", "mall"),  # work: fixed for each person
    "S": ("station",),
    "A": ("airport",),
    "M": ("mall", "shop"),
    "K": ("market", "village_market", "mall"),
    "P": ("hospital",),
    "I": ("internet_cafe", "cinema", "mall"),
    "F": ("cinema", "mall"),
    "E": ("hotel", "golf_course"),
    "B": ("bank", "government"),
    "O": (),  # outside the province: roaming
}
"""Letter of a schedule -> place categories, the first that the province has is used."""

FLIGHT_OUT = "HHHHHHHHAAOOOOOOOOOOOOOO"
FLIGHT_BACK = "OOOOOOOOOOOOOOOOOOOOAHHH"
"""The phone is off in the air: 9:55 to 12:05 out, 18:40 to 20:55 back."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A kind of customer. `rhythm` strings give the busyness of each hour, 0 to 9.

    `per_day` is how often a day something is begun; what follows from it (the other party's event, a
    reply, a charge) comes on top. `home` and `work` override the place categories of H and W.
    """

    name: str
    share: int
    ages: tuple[int, int]
    brands: tuple[tuple[int, str], ...]
    arpu: tuple[int, int]
    weekday: Schedules
    weekend: Schedules
    weekday_rhythm: str
    weekend_rhythm: str
    per_day: dict[str, float]
    home: tuple[str, ...] = PLACE_KINDS["H"]
    work: tuple[str, ...] = PLACE_KINDS["W"]
    trips: float = 0.0


_BASE = {
    "text": 7.0, "text_in": 4.0, "call": 5.0, "call_in": 2.5, "mms": 0.25, "mms_in": 0.35, "data": 18.0,
    "balance": 0.15, "bill": 0.06, "usage": 0.08, "ringtone": 0.03, "hotline": 0.04, "complaint": 0.004,
    "counter": 0.02, "web": 0.25, "app": 1.2, "order": 0.02, "cancel": 0.006,
}  # fmt: skip


def _rates(**changes: float) -> dict[str, float]:
    return {**_BASE, **changes}


SEGMENTS = (
    Segment(
        "commuter",
        30,
        (22, 55),
        ((5, "easyown"), (4, "gotone"), (1, "mzone")),
        (5_000, 12_000),
        weekday=(
            (6, "HHHHHHHSWWWWWWWWWWSHHHHH"),
            (3, "HHHHHHHHWWWWWWWWWWMMHHHH"),
            (1, "HHHHHHHSWWWWMWWWWWWFFHHH"),
        ),
        weekend=(
            (4, "HHHHHHHHHHHHHHHHHHHHHHHH"),
            (4, "HHHHHHHHHHMMMMMHHHHHHHHH"),
            (2, "HHHHHHHHHHHHHHMMMMFFFHHH"),
        ),
        weekday_rhythm="100000267776877668998642",
        weekend_rhythm="210000124567766677889853",
        per_day=_rates(),
    ),
    Segment(
        "student",
        18,
        (17, 24),
        ((8, "mzone"), (2, "easyown")),
        (2_500, 6_000),
        weekday=(
            (7, "HHHHHHHHWWWWHWWWWWHHHHHH"),
            (2, "HHHHHHHHWWWWHWWWWIIIIHHH"),
            (1, "HHHHHHHHWWWWMMMHHHHHHHHH"),
        ),
        weekend=(
            (4, "HHHHHHHHHHHHHIIIIIHHHHHH"),
            (4, "HHHHHHHHHHMMMMFFFHHHHHHH"),
            (2, "HHHHHHHHHSMMMMMSHHHHHHHH"),
        ),
        weekday_rhythm="210000135556854568889976",
        weekend_rhythm="321000013567766788899986",
        per_day=_rates(
            text=15, text_in=6, call=3, call_in=1.5, mms=0.6, mms_in=0.7, data=32, ringtone=0.08, app=2
        ),
        home=("campus", "residential"),
        work=("campus", "office"),
    ),
    Segment(
        "business",
        8,
        (28, 60),
        ((9, "gotone"), (1, "easyown")),
        (15_000, 60_000),
        weekday=(
            (6, "HHHHHHHHWWWWEWWWWWWEEHHH"),
            (2, "HHHHHHHHWWBWWWWWWWWHHHHH"),
            (2, "HHHHHHHSWWWWEEEWWWSHHHHH"),
        ),
        weekend=(
            (5, "HHHHHHHHHHHHHHHHHHHHHHHH"),
            (3, "HHHHHHHEEEEEHHHHMMMHHHHH"),
            (2, "HHHHHHHHHHMMMMHHHEEEHHHH"),
        ),
        weekday_rhythm="100000258999777899887642",
        weekend_rhythm="210000124566666666777643",
        per_day=_rates(text=8, call=14, call_in=7, data=26, bill=0.12, balance=0.08, hotline=0.06, app=2),
        trips=0.12,
    ),
    Segment(
        "homemaker",
        12,
        (25, 60),
        ((7, "easyown"), (3, "gotone")),
        (3_000, 8_000),
        weekday=(
            (6, "HHHHHHHKKHHHHHHKHHHHHHHH"),
            (3, "HHHHHHHKHHMMMMHHHHHHHHHH"),
            (1, "HHHHHHHHPPPHHHHKHHHHHHHH"),
        ),
        weekend=((5, "HHHHHHHHKKHHHHHHHHHHHHHH"), (5, "HHHHHHHHHHMMMMMMHHHHHHHH")),
        weekday_rhythm="100000368887645667678742",
        weekend_rhythm="100000257887766667778742",
        per_day=_rates(text=5, call=5, data=14, mms=0.3, counter=0.04, app=1.5),
    ),
    Segment(
        "retired",
        10,
        (58, 85),
        ((9, "easyown"), (1, "gotone")),
        (1_500, 4_000),
        weekday=(
            (5, "HHHHHHKKHHHHHHHHHHHHHHHH"),
            (3, "HHHHHHKKPPPHHHHHHHHHHHHH"),
            (2, "HHHHHHKKHBBHHHHHHHHHHHHH"),
        ),
        weekend=((7, "HHHHHHKKHHHHHHHHHHHHHHHH"), (3, "HHHHHHKHHHMMMHHHHHHHHHHH")),
        weekday_rhythm="000002589876534567786310",
        weekend_rhythm="000002579887534567786310",
        per_day=_rates(
            text=1.2,
            text_in=2.5,
            call=4,
            call_in=2.5,
            mms=0.04,
            mms_in=0.2,
            data=2,
            hotline=0.07,
            app=0.1,
            counter=0.05,
            web=0.03,
        ),
    ),
    Segment(
        "night_worker",
        6,
        (20, 50),
        ((8, "easyown"), (2, "mzone")),
        (3_000, 7_000),
        weekday=((8, "WWWWWWSHHHHHHHHHHHKHHHWW"), (2, "WWWWWWWHHHHHHHHHHHMMHHWW")),
        weekend=((5, "WWWWWWSHHHHHHHHHHHHHHHWW"), (5, "HHHHHHHHHHHHHHMMMMHHHHHH")),
        weekday_rhythm="666654673100000136899987",
        weekend_rhythm="666654541100002367889986",
        per_day=_rates(text=9, data=30, mms=0.35, ringtone=0.05),
        work=("hospital", "station", "office"),
    ),
    Segment(
        "villager",
        16,
        (18, 70),
        ((10, "easyown"),),
        (1_500, 5_000),
        weekday=(
            (6, "HHHHHHHHHHHHHHHHHHHHHHHH"),
            (3, "HHHHHHKKKHHHHHHHHHHHHHHH"),
            (1, "HHHHHHHSSMMMMSHHHHHHHHHH"),
        ),
        weekend=((5, "HHHHHHHHHHHHHHHHHHHHHHHH"), (5, "HHHHHHKKKKHHHHHHHHHHHHHH")),
        weekday_rhythm="000003787667853456899730",
        weekend_rhythm="000003777778854567899730",
        per_day=_rates(text=3, call=5, call_in=3, data=9, mms=0.1, app=0.5, web=0.08),
        home=("village", "residential"),
        work=("village", "office"),
    ),
)


@dataclass(frozen=True, slots=True)
class Habit:
    """A static behaviour: this share of 1,000 people has it; what it multiplies in their rates."""

    name: str
    per_mille: int
    times: dict[str, float]


HABITS = (
    Habit("often_off", 120, {}),
    Habit("sends_mms", 90, {"mms": 9.0, "mms_in": 5.0}),
    Habit("queries_balance", 110, {"balance": 9.0, "usage": 4.0, "bill": 3.0}),
    Habit("changes_ringtone", 70, {"ringtone": 10.0}),
    Habit("surfs", 150, {"data": 2.5}),
    Habit("restarts", 50, {}),
    Habit("light", 120, {"text": 0.1, "data": 0.15, "call": 0.5, "call_in": 0.6, "app": 0.2, "mms": 0.2}),
)

BRAND_NAMES = {"gotone": "全球通", "easyown": "神州行", "mzone": "动感地带"}

TARIFFS = {
    "gotone": ("gotone-88", "gotone-128", "gotone-288"),
    "easyown": ("easyown-local", "easyown-family", "easyown-village"),
    "mzone": ("mzone-campus", "mzone-music", "mzone-surf"),
}

PRODUCTS = (
    "missed-call-alert", "easy-bill-query", "bill-by-mail", "mms-bundle", "mms-gallery", "music-club",
    "ringback-tone", "data-30m", "data-100m", "night-data", "sms-bundle", "messenger", "mobile-newspaper",
    "mobile-reading", "mobile-stock", "roaming-data", "family-number", "self-service-app",
)  # fmt: skip
"""Products that people of the province hold, order and cancel."""

BRANCHES = ("binhai", "donghu", "linjiang", "xishan")

TOPICS = ("tariff", "billing", "network", "data", "value_added", "handset", "roaming", "points", "contract",
          "finance")  # fmt: skip
PAGES = ("home", "bill", "usage", "tariffs", "products", "points", "handsets", "help")
QUERY_CHANNELS = ("sms", "sms", "hotline", "app", "ussd", "web")
SALES_CHANNELS = ("sms", "app", "counter", "web", "hotline")
GENRES = ("pop", "folk", "rock", "opera", "comedy", "children")
RECHARGES = (1_000, 2_000, 3_000, 3_000, 5_000, 5_000, 10_000, 20_000)

WEEKS = ((12, 1.0), (1, 5.0), (1, 0.1))
"""Weighted weeks: how many times as much as usual somebody spends."""

DATA_CATEGORIES = (
    "finance", "games", "maps", "music", "news", "reading", "shopping", "social", "sports", "travel",
    "video", "weather",
)  # fmt: skip
DATA_KB = {"video": 4_000, "music": 1_800, "games": 900, "maps": 500}
"""Typical size of a session in KB where it is not 150."""
