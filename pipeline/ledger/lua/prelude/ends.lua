-- How requests, flights and dead letters end.

-- The command that lets idempotency keys stand for requests, or nil. held: {key, id, digest of the body} each. A key that
-- has come to stand for another request, since this one had it, is left to that.
local function holding(held)
  if #held == 0 then return nil end
  local keys, set, n = {}, { 'MSETEX', 0 }, 0
  for i, one in ipairs(held) do keys[i] = one[1] end
  for i, value in ipairs(redis.call('MGET', unpack(keys))) do
    if not value or sub(value, 1, 16) == held[i][2] then
      n = n + 1
      set[2 * n + 1], set[2 * n + 2] = held[i][1], held[i][2] .. held[i][3]
    end
  end
  set[2] = n
  return n > 0 and set or nil
end

-- Requests of tenants have come (1) or ended (-1). records: any, whoever's. It is counted whether keys have limits or not:
-- so those can be set at any time. Called right after what it counts has been written. A tenant that has none left has no
-- field, which also takes back what a count has missed.
local function count_owned(records, step)
  local sums = {}
  for _, record in ipairs(records) do
    local tenant = byte(record) >= 32 and tenant_of(record)
    if tenant then sums[tenant] = (sums[tenant] or 0) + step end
  end
  for tenant, sum in pairs(sums) do
    local left = tell('HINCRBY', P .. 'owned', tenant, sum)
    if type(left) == 'number' and left <= 0 then tell('HDEL', P .. 'owned', tenant) end
  end
end

-- Tell who waits for ends. A small announcement carries the records, which saves everybody who waits the look: a round
-- trip, at the light load where each counts most. A large one would take them to all who listen and wait for others.
-- A message: a zero byte and the ids; or how many, for each an id and its record's length in two bytes, then the records.
local RECORDS_LIMIT = 4096 -- bytes
local function announce(ids, ends)
  local size, heads = 0, {}
  for i, id in ipairs(ids) do
    local n = #ends[i]
    size = size + n
    if size > RECORDS_LIMIT then
      tell('PUBLISH', CHANNEL, '\0' .. table.concat(ids))
      return
    end
    heads[i] = id .. string.char(math.floor(n / 256), n % 256)
  end
  tell('PUBLISH', CHANNEL, string.char(#ids) .. table.concat(heads) .. table.concat(ends))
end

-- The ends of requests: their records become their ends, then each leaves `open` - the one terminal commit - and only then
-- is it told. A request that stands in `open` with an end already, because a script was stopped in between, keeps that
-- end: it leaves, no more. Such a script leaves `ending`, which is written with the records: only then are they read first.
-- ids: all still open (the caller has looked, in the same script). ends: their new records, all of this state, replaced
-- by those that stand. The two lives in ms: a key never outlives what it stands for. before_records: writes what must
-- stand before they say that they have ended, told which had ended before (a table of ids). before_leaving: clears away
-- what nobody would find once they have left.
local function commit_ends(ids, ends, state, ttl, key_ttl, before_records, before_leaving)
  if #ids == 0 then return end
  local had_ended, sums = {}, {}
  for i, present in ipairs(was_stopped and redis.call('MGET', unpack(keys_of('r:', ids))) or {}) do
    local ended = end_of(present)
    if ended then
      ends[i], had_ended[ids[i]] = present, true
      sums[ended] = (sums[ended] or 0) + 1
    end
  end
  local set, held, n = { 'MSETEX', 1, P .. 'ending', '' }, {}, 4
  for i, id in ipairs(ids) do
    if not had_ended[id] then
      set[n + 1], set[n + 2] = P .. 'r:' .. id, ends[i]
      n = n + 2
    end
    if byte(ends[i]) % 4 >= 2 then
      local key, body = key_of(ends[i])
      held[#held + 1] = { P .. 'k:' .. key, id, body }
    end
  end
  local keys = holding(held)
  if before_records then before_records(had_ended) end
  set[2] = (n - 2) / 2
  set_with_life(set, ttl)
  if keys then set_with_life(keys, key_ttl) end
  if before_leaving then before_leaving() end
  redis.call('ZREM', P .. 'open', unpack(ids))
  if not was_stopped then tell('DEL', P .. 'ending') end
  if audited then
    local entry = { 'what', 'ended' }
    for i, id in ipairs(ids) do entry[2 * i + 1], entry[2 * i + 2] = id, ends[i] end
    audit(unpack(entry))
  end
  count_owned(ends, -1)
  sums[state] = (sums[state] or 0) + (n - 4) / 2
  for each, ended in pairs(sums) do count(each, ended) end
  announce(ids, ends)
end

-- Whether the cache has room for n more entries of this life (ms), which live in two buckets as long as that. About: an
-- entry is a pointer to a record that is kept anyway. max_bytes is what the cache may take.
local function has_room(n, life, now, max_bytes)
  if redis.call('EXISTS', P .. 'memory_low') == 1 then return false end
  local bucket = math.floor(now / life)
  local kept = P .. 'kept:' .. life .. ':'
  local before, present = unpack(redis.call('MGET', kept .. int(bucket - 1), kept .. int(bucket)))
  if ((before or 0) + (present or 0) + n) * 200 > max_bytes then return false end
  tell('INCRBY', kept .. int(bucket), n)
  tell('PEXPIRE', kept .. int(bucket), 2 * life)
  return true
end

-- Clear away what flights leave when they are over. records: a member's as ended, for the cache key.
-- cache: nil unless the first member's end is a result; else how long that may be given again (ms) and what the cache may
-- take (bytes). For two seconds it is found in any case: by who looked into a cache elsewhere a moment too early.
local function close_flights(ids, records, now, cache)
  if #ids == 0 then return end
  redis.call('DEL', unpack(keys_of('o:', ids)))
  if redis.call('EXISTS', P .. 'attempts') == 1 then redis.call('HDEL', P .. 'attempts', unpack(ids)) end
  local landed, gone, of = { 'MSETEX', 0 }, {}, {}
  for i, id in ipairs(ids) do
    local cache_key, lasting = cache_key_of(records[i])
    if cache_key and cache and lasting then
      local n = #landed
      landed[n + 1], landed[n + 2] = P .. 'f:' .. cache_key, id
    elseif cache_key then
      gone[#gone + 1], of[#of + 1] = P .. 'f:' .. cache_key, id
    end
  end
  if #gone > 0 then
    for i, value in ipairs(redis.call('MGET', unpack(gone))) do
      if value and string.sub(value, 1, 16) == of[i] then redis.call('DEL', gone[i]) end -- not another's by now
    end
  end
  local n = (#landed - 2) / 2
  if n > 0 then
    local keep = cache[1] > 2000 and has_room(n, cache[1], now, cache[2])
    landed[2] = n
    set_with_life(landed, keep and int(cache[1]) or 2000)
  end
end

-- Dead letters are bounded by age (oldest_ms) and by count; what goes, goes whole.
local function trim_letters(oldest_ms, most)
  local old = redis.call('ZRANGE', P .. 'dead', '-inf', '(' .. int(oldest_ms), 'BYSCORE', 'LIMIT', 0, 128)
  local excess = redis.call('ZCARD', P .. 'dead') - #old - most
  if excess > 0 then
    for _, id in ipairs(redis.call('ZRANGE', P .. 'dead', #old, #old + math.min(excess, 128) - 1)) do
      old[#old + 1] = id
    end
  end
  if #old > 0 then
    redis.call('DEL', unpack(keys_of('d:', old)))
    redis.call('DEL', unpack(keys_of('dm:', old)))
    redis.call('ZREM', P .. 'dead', unpack(old))
  end
end
