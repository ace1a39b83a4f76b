-- Keeps results in the cache's own server (see result_cache.py for its keys). At its memory limit that server refuses
-- this, as it should. Returns how many results it has kept.
-- The size of all entries stands beside each entry's, under a name that is no key's, and changes in the same command:
-- it is never too high for what is there.
local max_bytes = ARGV[1] -- that the cache may take
local ttl = ARGV[2] -- ms
local FIRST, STEP = 3, 2 -- then pairs of cache key and value

local index, sizes, now, TOTAL = P .. 'xi', P .. 'xs', now_ms(), ''
local used = tonumber(redis.call('HGET', sizes, TOTAL) or '0')

-- Removes entries: their values have expired, or go now.
local function drop(keys)
  if #keys == 0 then return end
  local set = { 'HSET', sizes }
  for i, size in ipairs(redis.call('HMGET', sizes, unpack(keys))) do
    used = used - (size or 0)
    set[#set + 1], set[#set + 2] = keys[i], 0
  end
  redis.call('DEL', unpack(keys_of('x:', keys)))
  set[#set + 1], set[#set + 2] = TOTAL, int(math.max(0, used))
  redis.call(unpack(set))
  redis.call('HDEL', sizes, unpack(keys))
  redis.call('ZREM', index, unpack(keys))
end

drop(redis.call('ZRANGE', index, '-inf', int(now), 'BYSCORE', 'LIMIT', 0, SCRIPT_LIMIT))

local keys, values = {}, {}
for i = FIRST, #ARGV, STEP do
  if not values[ARGV[i]] then -- once, if two of one batch share it
    keys[#keys + 1] = ARGV[i]
    values[ARGV[i]] = ARGV[i + 1]
  end
end
local counted_before = {}
for i, size in ipairs(redis.call('HMGET', sizes, unpack(keys))) do
  if size then counted_before[#counted_before + 1] = keys[i] end
end
drop(counted_before) -- an older value, or what is still counted of one

local set, entries, counted, added = { 'MSETEX', #keys }, { 'ZADD', index }, { 'HSET', sizes }, 0
for i, key in ipairs(keys) do
  local size = #values[key] + CACHE_ENTRY_BYTES
  added = added + size
  set[2 * i + 1], set[2 * i + 2] = P .. 'x:' .. key, values[key]
  entries[2 * i + 1], entries[2 * i + 2] = int(now + ttl), key
  counted[2 * i + 1], counted[2 * i + 2] = key, size
end
local over = used + added - max_bytes
if over > 0 then -- the next to expire are removed; a bounded number, so that a large value cannot stop the server
  local soonest, enough = redis.call('ZRANGE', index, 0, SCRIPT_LIMIT - 1), {}
  local lengths = #soonest > 0 and redis.call('HMGET', sizes, unpack(soonest)) or {}
  for i, key in ipairs(soonest) do
    if over <= 0 then break end
    over = over - (lengths[i] or 0)
    enough[i] = key
  end
  drop(enough)
end
local kept = over <= 0 and #keys or 0
if kept > 0 then
  used = used + added
  counted[#counted + 1], counted[#counted + 2] = TOTAL, int(used)
  redis.call(unpack(entries))
  redis.call(unpack(counted))
  set_with_ttl(set, ttl)
end
return kept
