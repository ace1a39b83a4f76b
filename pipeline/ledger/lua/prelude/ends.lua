-- How requests, flights and dead letters end.

-- The command that lets idempotency keys stand for requests, or nil if there is none to write.
-- held: {key, id, digest of the body} each. A key that stands for another request by now is left to that.
local function key_writes(held)
  if #held == 0 then return nil end
  local keys, set, n = {}, { 'MSETEX', 0 }, 0
  for i, one in ipairs(held) do
    keys[i] = one[1]
  end
  for i, value in ipairs(redis.call('MGET', unpack(keys))) do
    if not value or sub(value, 1, ID_BYTES) == held[i][2] then
      n = n + 1
      set[2 * n + 1], set[2 * n + 2] = held[i][1], held[i][2] .. held[i][3]
    end
  end
  set[2] = n
  return n > 0 and set or nil
end

-- Counts the unfinished requests of tenants: some have come (step 1) or ended (step -1). records: of any tenants.
-- Whether tenants have limits or not, so that limits can be set at any time. Called right after what it counts has been
-- written.
-- A tenant without unfinished requests has no field, which also corrects what a count has missed.
local function count_for_tenants(records, step)
  local sums = {}
  for _, record in ipairs(records) do
    local tenant = byte(record) >= HAS_TENANT and tenant_of(record)
    if tenant then sums[tenant] = (sums[tenant] or 0) + step end
  end
  for tenant, sum in pairs(sums) do
    local left = best_effort('HINCRBY', P .. 'owned', tenant, sum)
    if type(left) == 'number' and left <= 0 then best_effort('HDEL', P .. 'owned', tenant) end
  end
end

-- Announces ends to the clients that wait for them. A small announcement carries the records, which saves each client a
-- round trip at the light load where one counts most. A large one would send them to all who listen and wait for
-- others.
-- A message: a zero byte and the ids; or how many, for each an id and its record's length in two bytes, then the
-- records.
local function announce(ids, ends)
  local size, heads = 0, {}
  for i, id in ipairs(ids) do
    local n = #ends[i]
    size = size + n
    if size > ANNOUNCED_BYTES then
      best_effort('PUBLISH', CHANNEL, '\0' .. table.concat(ids))
      return
    end
    heads[i] = id .. string.char(math.floor(n / 256), n % 256)
  end
  best_effort('PUBLISH', CHANNEL, string.char(#ids) .. table.concat(heads) .. table.concat(ends))
end

-- Ends requests: their records become their ends, then each leaves `open` (the one terminal commit), and only then is
-- that announced. A request that is in `open` with an end already, because a script was stopped in between, keeps that
-- end: it only leaves. Such a script leaves `ending`, which is written with the records: only then are they read first.
-- ids: all still open (the caller has looked, in the same script). ends: their new records, all of this state; those
-- that exist already replace them. ttl, key_ttl: of records and of idempotency keys (ms): a key never outlives what it
-- stands for. before_records: writes what must exist before the records say that they have ended; it is given a table
-- of the ids that had ended before. before_leaving: removes what nobody would find once they have left.
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
    if byte(ends[i]) % HAS_CACHE_KEY >= HAS_KEY then
      local key, body = key_of(ends[i])
      held[#held + 1] = { P .. 'k:' .. key, id, body }
    end
  end
  local keys = key_writes(held)
  if before_records then before_records(had_ended) end
  set[2] = (n - 2) / 2
  set_with_ttl(set, ttl)
  if keys then set_with_ttl(keys, key_ttl) end
  if before_leaving then before_leaving() end
  redis.call('ZREM', P .. 'open', unpack(ids))
  if not was_stopped then best_effort('DEL', P .. 'ending') end
  if audited then
    local entry = { 'what', 'ended' }
    for i, id in ipairs(ids) do
      entry[2 * i + 1], entry[2 * i + 2] = id, ends[i]
    end
    audit(unpack(entry))
  end
  count_for_tenants(ends, -1)
  sums[state] = (sums[state] or 0) + (n - 4) / 2
  for each, ended in pairs(sums) do
    count(each, ended)
  end
  announce(ids, ends)
end

-- Whether the cache has room for n more pointers with this ttl (ms), estimated: they are counted by periods of that
-- ttl, and those of two periods can be alive. max_bytes: what the cache may take. The records that pointers lead to are
-- kept anyway.
local function cache_has_room(n, ttl, now, max_bytes)
  if redis.call('EXISTS', P .. 'memory_low') == 1 then return false end
  local period = math.floor(now / ttl)
  local kept = P .. 'kept:' .. ttl .. ':'
  local before, present = unpack(redis.call('MGET', kept .. int(period - 1), kept .. int(period)))
  if ((before or 0) + (present or 0) + n) * POINTER_BYTES > max_bytes then return false end
  best_effort('INCRBY', kept .. int(period), n)
  best_effort('PEXPIRE', kept .. int(period), 2 * ttl)
  return true
end

-- Removes what flights leave when they are over. records: a member's as ended, for the cache key.
-- cache: nil unless the first member's end is a result; else the time for which that may be given again (ms) and what
-- the cache may take (bytes). A result is found for RECENT_RESULT_MS in any case: by a client that has looked into a
-- cache elsewhere just before the result came there.
local function close_flights(ids, records, now, cache)
  if #ids == 0 then return end
  redis.call('DEL', unpack(keys_of('o:', ids)))
  if redis.call('EXISTS', P .. 'attempts') == 1 then redis.call('HDEL', P .. 'attempts', unpack(ids)) end
  local pointers, gone, of = { 'MSETEX', 0 }, {}, {}
  for i, id in ipairs(ids) do
    local cache_key, reusable = cache_key_of(records[i])
    if cache_key and cache and reusable then
      local n = #pointers
      pointers[n + 1], pointers[n + 2] = P .. 'f:' .. cache_key, id
    elseif cache_key then
      gone[#gone + 1], of[#of + 1] = P .. 'f:' .. cache_key, id
    end
  end
  if #gone > 0 then
    for i, value in ipairs(redis.call('MGET', unpack(gone))) do
      if value and sub(value, 1, ID_BYTES) == of[i] then redis.call('DEL', gone[i]) end -- else another flight's
    end
  end
  local n = (#pointers - 2) / 2
  if n > 0 then
    local ttl, max_bytes = cache[1], cache[2]
    local keep = ttl > RECENT_RESULT_MS and cache_has_room(n, ttl, now, max_bytes)
    pointers[2] = n
    set_with_ttl(pointers, keep and int(ttl) or RECENT_RESULT_MS)
  end
end

-- Removes dead letters, whole, that died before oldest_ms, and the oldest if there are more than max_count.
local function trim_dead_letters(oldest_ms, max_count)
  local old = redis.call('ZRANGE', P .. 'dead', '-inf', '(' .. int(oldest_ms), 'BYSCORE', 'LIMIT', 0, SCRIPT_LIMIT)
  local excess = redis.call('ZCARD', P .. 'dead') - #old - max_count
  if excess > 0 then
    for _, id in ipairs(redis.call('ZRANGE', P .. 'dead', #old, #old + math.min(excess, SCRIPT_LIMIT) - 1)) do
      old[#old + 1] = id
    end
  end
  if #old > 0 then
    redis.call('DEL', unpack(keys_of('d:', old)))
    redis.call('DEL', unpack(keys_of('dm:', old)))
    redis.call('ZREM', P .. 'dead', unpack(old))
  end
end
