"""Compares what is stored with the legend of keys, a page of keys at a time, on the server itself."""

import re

from pipeline.ledger.keys import TAG
from pipeline.ledger.legend import LEGEND
from pipeline.store.connection import AsyncClient

_PAGE = 1000
CHECK_PAGE = """
local cursor, tag, count, all_ended, FIRST = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', 5
local legend, patterns = {}, {}
for i = FIRST, #ARGV, 3 do
  local pattern, entry = ARGV[i], { type = ARGV[i + 1], lasting = ARGV[i + 2] }
  legend[pattern] = entry
  patterns[#patterns + 1] = pattern
end

local function entry_of(name)
  local known = legend[name] or legend[(string.match(name, '^%l+:') or '') .. '.+']
  if known then return known end
  for _, pattern in ipairs(patterns) do
    if string.find(name, '^' .. pattern .. '$') then return legend[pattern] end
  end
end

local function is_unfinished(id)
  return redis.call('ZSCORE', tag .. 'open', id) or redis.call('HEXISTS', tag .. 'joined', id) == 1
end

-- What speaks against a key, or nil.
local function breach(key, name)
  local entry = entry_of(name)
  if not entry then return 'is not in the legend' end
  local type = redis.call('TYPE', key).ok
  if type == 'none' then return nil end -- it expired just now
  if type ~= entry.type then return 'is a ' .. type .. ', not a ' .. entry.type end
  if redis.call('PTTL', key) ~= -1 then return nil end
  if entry.lasting == 'expires' then return 'for ever' end
  if entry.lasting == 'work' and all_ended then return 'is left' end
  if entry.lasting == 'then expires' then
    local id = string.sub(name, 1, 2) == 'r:' and string.sub(name, 3) or string.sub(redis.call('GET', key), 1, 16)
    if all_ended or not is_unfinished(id) then return 'for ever' end
  end
end

local page = redis.call('SCAN', cursor, 'MATCH', tag .. '*', 'COUNT', count)
local found = {}
for _, key in ipairs(page[2]) do
  local problem = breach(key, string.sub(key, #tag + 1))
  if problem then
    found[#found + 1] = key
    found[#found + 1] = problem
  end
end
return { page[1], found }
"""


def _pattern(name: str) -> str:
    """A legend's name as a Lua pattern: what is in capitals stands for anything."""
    return re.sub(r"[A-Z_]*[A-Z]", ".+", re.sub(r"([.-])", r"%\1", name))


async def breaches(store: AsyncClient, *, all_ended: bool) -> list[str]:
    """The keys that the legend does not name, or of another type, or without the TTL that they should have by now.

    ``all_ended``: no request is unfinished, so what only work has is named, too.
    """
    rows = [part for key in LEGEND for part in (_pattern(key.name), key.type, str(key.lasting))]
    found: set[str] = set()
    cursor = b"0"
    while True:
        arguments = [cursor, TAG, _PAGE, "1" if all_ended else "0", *rows]
        cursor, page = await store.eval(CHECK_PAGE, 0, *arguments)
        for key, problem in zip(page[::2], page[1::2], strict=True):
            found.add(f"{key.decode(errors='replace')} {problem.decode()}")
        if cursor == b"0":
            return sorted(found)
