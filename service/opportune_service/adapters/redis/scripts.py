"""What runs inside Redis: each call is one step, whatever else other members ask for at the same time.

Keys of one shard, all in one hash slot; `TAG` is the shard's own:

    opportune:{TAG}:id          tells this part of the store from what it was before it was emptied
    opportune:{TAG}:m:MEMBER    under which fence the member works, see `ANNOUNCE`
    opportune:{TAG}:w:MEMBER    what others wish of the member, a list; in one shard, see `store.py`
    opportune:{TAG}:c:MEMBER    the member is careful, for as long as this lives; in the same shard
    opportune:{TAG}:held        who is held: MEMBER:VERSION, by whom, and as which version that member last
                                loaded or wrote it; it may have a newer one, which it keeps
    opportune:{TAG}:due         who has a timer, by when the first is due
    opportune:{TAG}:s:ID        the state of a subscriber

A state is a string: its version (8 bytes, another one with every write by whomever), the era in which it
was written (8 bytes), the length of its head (4 bytes, the highest first), its head, and its body.

Every key is named in the call. So, while a shard moves to another node of a cluster, Redis refuses what it
could only answer in part.
"""

from __future__ import annotations

_KNOWN = """
local marks = redis.call('MGET', KEYS[1], KEYS[2])
if marks[1] ~= ARGV[1] then
  return redis.error_reply('EMPTIED the store is not the one that it was')
end
"""
"""KEYS: id, fence. ARGV: id, fence."""

_FENCED = (
    _KNOWN
    + """
if marks[2] ~= ARGV[2] then
  return redis.error_reply('FENCED a call of before')
end
"""
)
"""The same."""

_READ = """
local words, blobs = {}, {}

local function put(i, word, blob)
  words[i] = word
  if blob then
    blobs[#blobs + 1] = struct.pack('>I4', #blob)
    blobs[#blobs + 1] = blob
  end
end

local none = string.rep('\\0', 8)

local function read(i, key, cached, whole)
  if whole and cached == none then
    local blob = redis.call('GET', key)
    put(i, blob and 'f' or 'n', blob)
    return blob and string.sub(blob, 1, 8) or none
  end
  local start = redis.call('GETRANGE', key, 0, 19)
  local version = string.sub(start, 1, 8)
  if start == '' then
    put(i, 'n')
    return none
  elseif version == cached then
    put(i, 'c')
  elseif whole then
    put(i, 'f', redis.call('GET', key))
  else
    put(i, 'f', redis.call('GETRANGE', key, 0, 19 + struct.unpack('>I4', start, 17)))
  end
  return version
end

local function answer()
  return table.concat(words) .. table.concat(blobs)
end
"""
"""The answer: a letter for each key (f: found, it follows; c: as in the caller's cache; n: none; b: held by
another, whose number follows), then what follows, each with its length before it."""

_MINE = """
local function is_mine(mark, mine)
  return mark and string.sub(mark, 1, #mine) == mine
end
"""

_TIME = """
local function time(due)
  local timed, untimed = {}, {}
  for i = 1, #due, 2 do
    if due[i + 1] == '0' then
      untimed[#untimed + 1] = due[i]
    else
      timed[#timed + 1] = due[i + 1]
      timed[#timed + 1] = due[i]
    end
  end
  if #timed > 0 then redis.call('ZADD', KEYS[4], unpack(timed)) end
  if #untimed > 0 then redis.call('ZREM', KEYS[4], unpack(untimed)) end
end
"""
"""KEYS: four, the last is due."""

LOAD = (
    _FENCED
    + _READ
    + """
local me, count, versions = ARGV[3], tonumber(ARGV[4]), ARGV[5]
local free = {[me] = true}
for i = 6, #ARGV do free[ARGV[i]] = true end
local held, at = {}, 0
local before = redis.call('HMGET', KEYS[3], unpack(KEYS, 4))
for i = 1, count do
  local holder = before[i] and string.match(before[i], '^%d+')
  if holder and not free[holder] then
    put(i, 'b', holder)
  else
    local key = KEYS[3 + i]
    held[at + 1] = key
    held[at + 2] = me .. ':' .. read(i, key, string.sub(versions, i * 8 - 7, i * 8), true)
    at = at + 2
  end
end
if at > 0 then redis.call('HSET', KEYS[3], unpack(held)) end
return answer()
"""
)
"""Hold those whom nobody holds, and read their states.

KEYS: id, fence, held, states. ARGV: id, fence, me, how many, versions in the caller's cache, members whose
subscribers may be taken."""

READ = (
    _KNOWN
    + _READ
    + """
local whole, versions = ARGV[3] == 'whole', ARGV[4]
for i = 3, #KEYS do
  read(i - 2, KEYS[i], string.sub(versions, i * 8 - 23, i * 8 - 16), whole)
end
return answer()
"""
)
"""Read states, or their heads, whoever holds them.

KEYS: id, fence, states. ARGV: id, fence, whole or head, versions in the caller's cache."""

WRITE = (
    _FENCED
    + _MINE
    + _TIME
    + """
local me, keep, count, up = ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6] == 'up'
local mine = me .. ':'
local before = redis.call('HMGET', KEYS[3], unpack(KEYS, 5))
for i = 1, count do
  if not is_mine(before[i], mine) then
    return redis.error_reply('TAKEN another member has taken it over')
  end
end
local held, freed = {}, {}
for i = 1, count do
  local key, value = KEYS[4 + i], ARGV[6 + i]
  if value == '' then
    redis.call('DEL', key)
  else
    redis.call('SET', key, value, 'PX', keep)
  end
  if up or value == '' then
    freed[#freed + 1] = key
  else
    held[#held + 1] = key
    held[#held + 1] = mine .. string.sub(value, 1, 8)
  end
end
if #held > 0 then redis.call('HSET', KEYS[3], unpack(held)) end
if #freed > 0 then redis.call('HDEL', KEYS[3], unpack(freed)) end
local due = {}
for i = 7 + count, #ARGV do due[#due + 1] = ARGV[i] end
time(due)
return 'OK'
"""
)
"""Write states that are held, and give them up or hold on to them; nothing written is nobody there, who is
given up in any case.

KEYS: id, fence, held, due, states. ARGV: id, fence, me, milliseconds to keep, how many, up or on, states,
then subscribers and when their first timer is due, 0 for never, as far as that has changed."""

TIME = (
    _FENCED
    + _MINE
    + _TIME
    + """
local mine, due = ARGV[3] .. ':', {}
for i, mark in ipairs(redis.call('HMGET', KEYS[3], unpack(KEYS, 5))) do
  if is_mine(mark, mine) then
    due[#due + 1] = ARGV[2 + 2 * i]
    due[#due + 1] = ARGV[3 + 2 * i]
  end
end
time(due)
return 'OK'
"""
)
"""Note when the first timers of those who are held are due.

KEYS: id, fence, held, due, states. ARGV: id, fence, me, then subscribers and when, 0 for never."""

RELEASE = (
    _FENCED
    + _MINE
    + """
local mine, freed = ARGV[3] .. ':', {}
for i, mark in ipairs(redis.call('HMGET', KEYS[3], unpack(KEYS, 4))) do
  if is_mine(mark, mine) then freed[#freed + 1] = KEYS[3 + i] end
end
if #freed > 0 then redis.call('HDEL', KEYS[3], unpack(freed)) end
return 'OK'
"""
)
"""Give up those who are held. KEYS: id, fence, held, states. ARGV: id, fence, me."""

ANNOUNCE = (
    _KNOWN
    + _MINE
    + """
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[4])
local mine, kept, freed = ARGV[3] .. ':', {}, {}
for i = 4, #KEYS do kept[KEYS[i]] = true end
local held = redis.call('HGETALL', KEYS[3])
for i = 1, #held, 2 do
  if is_mine(held[i + 1], mine) and not kept[held[i]] then freed[#freed + 1] = held[i] end
end
for i = 1, #freed, 1000 do
  redis.call('HDEL', KEYS[3], unpack(freed, i, math.min(i + 999, #freed)))
end
return 'OK'
"""
)
"""Work under a new fence from now on: calls of the same member that were lost on the way, and arrive only
now, do nothing. Whoever they held, and the member does not know of, is given up.

KEYS: id, fence, held, states known to be held. ARGV: id, fence, me, milliseconds to keep."""
