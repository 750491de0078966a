"""A small made-up province that lives through its days, for demonstrations, tests and benchmarks.

Pure and seeded: no clock, no files, no global random source. The same arguments give the same people
and the same events, byte for byte, in any process. Nobody in it is real: numbers come from a block
that starts at 8613800000001 (numbers of other networks from 8613900000000), IMEIs are invented around
the TACs that the caller passes in, web sites end in `.example`.

Things that happen over time happen here, too: people ride to work and to town through many cells, wait
at the airport, call back whom they missed, run out of money and recharge late, have handsets that
restart, and weeks in which they spend several times as much as in others.

Money is in fen (int). `peer` is a subscriber id: the other party. Event types and their attributes, as a
vocabulary should declare them:

| event type      | attributes |
|-----------------|------------|
| power_on        | roaming bool |
| power_off       | |
| sms_sent        | peer string |
| sms_received    | peer string |
| mms_sent        | peer string, size_kb int, to_count int |
| mms_received    | peer string, size_kb int |
| call_made       | peer string, duration_s int, ringback_heard bool |
| call_received   | peer string, duration_s int |
| call_missed     | peer string, cause string (no_answer, busy, powered_off) |
| call_refused    | peer string |
| ringtone_changed| tone string, genre string |
| data_session    | site string, category string, kb int |
| cell_changed    | cell string, roaming bool |
| sim_separated   | days_together int |
| balance_query   | channel string, balance int |
| bill_query      | channel string, months_back int |
| usage_query     | channel string, kind string (voice, sms, data) |
| order           | product string, channel string |
| cancel          | product string, channel string |
| recharge        | amount int, channel string |
| charge          | amount int, kind string (voice, sms, mms, data) |
| low_balance     | balance int |
| data_threshold  | percent int (80, 90, 100) |
| roaming_call    | minutes int |
| hotline_inquiry | topic string |
| complaint       | topic string, channel string |
| counter_visit   | topic string |
| web_visit       | page string |
| app_visit       | page string |

`handset_changed` is never sent: whoever receives the events sees it in the IMEI.
Topics: tariff, billing, network, data, value_added, handset, roaming, points, contract, finance.
Data categories: finance, games, maps, music, news, reading, shopping, social, sports, travel, video,
weather.
Pages: home, bill, usage, tariffs, products, points, handsets, help.
"""

from opportune_service.simulator.answers import Answer, answer
from opportune_service.simulator.handsets import luhn_digit
from opportune_service.simulator.province import Province

__all__ = ["Answer", "Province", "answer", "luhn_digit"]
