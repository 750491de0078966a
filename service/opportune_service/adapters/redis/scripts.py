"""What runs inside Redis: each call is one step, whatever else other members ask for at the same time.

Keys of one shard, all in one hash slot; `TAG` is the shard's own:

    opportune:{TAG}:id          tells this part of the store from what it was before it was emptied
    opportune:{TAG}:m:MEMBER    under which fence the member works, see `ANNOUNCE`
    opportune:{TAG}:held        who is held: MEMBER:VERSION, by whom, and as which version it was loaded
    opportune:{TAG}:due         who has a timer, by when the first is due
    opportune:{TAG}:s:ID        the state of a subscriber

A state is a string: its version (8 bytes, another one with every write by whomever), the era in which it
was written (8 bytes), the length of its head (4 bytes, the highest first), its head, and its body.

Every key is named in the call. So, while a shard moves to another node of a cluster, Redis refuses what it
could only answer in part.
"""

from __future__ import annotations

_CHECK = """
local function refused(fenced)
  local marks = redis.call('MGET', KEYS[1], KEYS[2])
  if marks[1] ~= ARGV[1] then
    return redis.error_reply('EMPTIED the store is not the one that it was')
  end
  if fenced and marks[2] ~= ARGV[2] then
    return redis.error_reply('FENCED a call of before')
  end
end
"""
"""KEYS: id, fence. ARGV: id, fence."""

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

LOAD = (
    _CHECK
    + _READ
    + """
local error = refused(true)
if error then return error end
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
    _CHECK
    + _READ
    + """
local error = refused(false)
if error then return error end
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
    _CHECK
    + """
local error = refused(true)
if error then return error end
local me, keep, count, versions = ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local mine = me .. ':'
local before = redis.call('HMGET', KEYS[3], unpack(KEYS, 5))
for i = 1, count do
  local as_loaded = mine .. string.sub(versions, i * 8 - 7, i * 8)
  if not before[i] or string.sub(before[i], 1, #as_loaded) ~= as_loaded then
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
  if versions == '' and value ~= '' then
    held[#held + 1] = key
    held[#held + 1] = mine .. string.sub(value, 1, 8)
  else
    freed[#freed + 1] = key
  end
end
if #held > 0 then redis.call('HSET', KEYS[3], unpack(held)) end
if #freed > 0 then redis.call('HDEL', KEYS[3], unpack(freed)) end
local timed, untimed = {}, {}
for i = 7 + count, #ARGV, 2 do
  if ARGV[i + 1] == '0' then
    untimed[#untimed + 1] = ARGV[i]
  else
    timed[#timed + 1] = ARGV[i + 1]
    timed[#timed + 1] = ARGV[i]
  end
end
if #timed > 0 then redis.call('ZADD', KEYS[4], unpack(timed)) end
if #untimed > 0 then redis.call('ZREM', KEYS[4], unpack(untimed)) end
return 'OK'
"""
)
"""Write states that are held, if they are the versions that were loaded, and give them up. Without
versions: write them whatever is there, and hold on to them; nothing written is nobody there.

KEYS: id, fence, held, due, states. ARGV: id, fence, me, milliseconds to keep, how many, versions or
nothing, states, then subscribers and when their first timer is due, 0 for never, as far as that has
changed."""

RELEASE = (
    _CHECK
    + """
local error = refused(true)
if error then return error end
local mine, freed = ARGV[3] .. ':', {}
for i, held in ipairs(redis.call('HMGET', KEYS[3], unpack(KEYS, 4))) do
  if held and string.sub(held, 1, #mine) == mine then freed[#freed + 1] = KEYS[3 + i] end
end
if #freed > 0 then redis.call('HDEL', KEYS[3], unpack(freed)) end
return 'OK'
"""
)
"""Give up those who are held. KEYS: id, fence, held, states. ARGV: id, fence, me."""

ANNOUNCE = (
    _CHECK
    + """
local error = refused(false)
if error then return error end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[4])
local mine, kept, freed = ARGV[3] .. ':', {}, {}
for i = 4, #KEYS do kept[KEYS[i]] = true end
local held = redis.call('HGETALL', KEYS[3])
for i = 1, #held, 2 do
  if string.sub(held[i + 1], 1, #mine) == mine and not kept[held[i]] then freed[#freed + 1] = held[i] end
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
