-- Keep results in the cache (see cache.py for its keys). At the memory limit the server refuses this script: rightly so.
-- ARGV: bytes that the cache may take, life in ms, then cache key and value, any number of pairs.
-- Returns how many it has kept.
if redis.call('EXISTS', P .. 'lean') == 1 then return 0 end
local index, now = P .. 'xi', now_ms()
local used = tonumber(redis.call('GET', P .. 'xb') or '0')

local function drop(entries)
  if #entries == 0 then return end
  redis.call('ZREM', index, unpack(entries))
  local gone = { 'DEL' }
  for _, entry in ipairs(entries) do
    gone[#gone + 1] = P .. 'x:' .. string.sub(entry, 1, 16)
    used = used - tonumber(string.sub(entry, 17))
  end
  redis.call(unpack(gone))
end

drop(redis.call('ZRANGE', index, '-inf', int(now), 'BYSCORE', 'LIMIT', 0, 128))

local asked = {}
for i = 3, #ARGV, 2 do asked[#asked + 1] = P .. 'x:' .. ARGV[i] end
local known = redis.call('MGET', unpack(asked))
local set, entries, added = { 'MSETEX', 0 }, { 'ZADD', index }, 0
for i, key in ipairs(asked) do
  local value = ARGV[2 * i + 2]
  if not known[i] and not known[key] then
    known[key] = true -- once, if two of one batch share it
    local size = #value + 200 -- of which the key, the index and the server's own structures are most
    added = added + size
    set[2] = set[2] + 1
    set[#set + 1], set[#set + 2] = key, value
    entries[#entries + 1] = int(now + ARGV[2])
    entries[#entries + 1] = ARGV[2 * i + 1] .. string.format('%08d', size)
  end
end
if set[2] == 0 or added > tonumber(ARGV[1]) then return 0 end
while used + added > tonumber(ARGV[1]) do
  local soonest = redis.call('ZRANGE', index, 0, 7) -- those that would expire next
  if #soonest == 0 then
    used = 0
    break
  end
  drop(soonest)
end
set[#set + 1], set[#set + 2] = 'PX', ARGV[2]
redis.call(unpack(set))
redis.call(unpack(entries))
redis.call('SET', P .. 'xb', int(used + added))
return set[2]
