-- Stands before every script, behind the constants (see constants.py). Keys: see legend.py.

-- What every key begins with: the partition's tag. Each script gets it as its only key, which tells a cluster where to
-- run.
local P = KEYS[1]

local byte, sub = string.byte, string.sub -- loops over requests use them: a global costs two lookups each time

-- An integer as text: Lua would print 1.7e+12 for a time.
local function int(n) return string.format('%.0f', n) end

-- A script is no transaction. The server may refuse any command (this user's rights, a wrong type), and what was done
-- before it stays done. So every script reads first, writes what is new before it removes what is old, and removes last
-- what others look for: an entry of `open`, a claim, a dead letter. What is left half done is then there twice, which
-- is harmless (see lua/prelude/lanes.lua), and never lost; the sweeper repairs the rest (scrub.lua, reopen.lua).

-- A command that only informs or counts: if the server refuses it, the script goes on.
local best_effort = redis.pcall

-- Set by now_ms(), which reads both keys with what it reads anyway. audited: the proof's log is on. was_stopped: a
-- script was stopped after it had written that requests have ended and before they had left `open` (see commit_ends).
local audited, was_stopped = false, false

-- Adds an entry to the proof's log: what happened to a batch.
local function audit(...)
  if audited then best_effort('XADD', P .. 'events', '*', ...) end
end

-- The server's time in ms. It never goes back, not even by a failover to a server whose clock is behind: from then on
-- the difference is added, because a time that stood still would requeue nothing. The sweeper takes the difference back
-- (elect.lua).
local function now_ms()
  local t = redis.call('TIME')
  local known = redis.call('MGET', P .. 'clock', P .. 'offset', P .. 'audit', P .. 'ending')
  audited, was_stopped = known[3], known[4]
  local latest, offset = tonumber(known[1] or '0'), tonumber(known[2] or '0')
  local now = t[1] * 1000 + math.floor(t[2] / 1000) + offset
  if now < latest then
    best_effort('SET', P .. 'offset', int(offset + latest - now))
    return latest
  end
  if now > latest + CLOCK_TOLERANCE_MS then best_effort('SET', P .. 'clock', int(now)) end
  return now
end

-- Writes values that expire. set: {'MSETEX', number of pairs, key, value, ...}, one command where the server has it
-- (Valkey from 9.0, Redis from 8.4). Elsewhere, or where this user may not send it, each value takes a SET.
local function set_with_ttl(set, ms)
  local last = #set
  set[last + 1], set[last + 2] = 'PX', ms
  local answer = redis.pcall(unpack(set))
  if type(answer) == 'table' and answer.err then
    for i = 3, last, 2 do
      redis.call('SET', set[i], set[i + 1], 'PX', ms)
    end
  end
end

-- What is known of a request's attempts. A text that cannot be read counts as none: it must not stop a lane.
local function attempts_of(text)
  local ok, known = pcall(cjson.decode, text or '')
  if not ok or type(known) ~= 'table' then known = {} end
  return {
    starts = tonumber(known.starts) or 0,
    losses = tonumber(known.losses) or 0,
    suspect = known.suspect == true,
    errors = type(known.errors) == 'table' and known.errors or {},
  }
end

-- The keys of one kind for these ids.
local function keys_of(kind, ids)
  local keys = {}
  for i, id in ipairs(ids) do
    keys[i] = P .. kind .. id
  end
  return keys
end

-- What scripts read of a value's prefix (see records.py), each part alone: most requests have few of them.
-- Lua 5.1 has no operators for bits. A flag is set if the remainder of a division by the next flag is at least the
-- flag.

-- Where the part after the flight begins.
local function after_flight(value) return byte(value) % HAS_KEY >= HAS_FLIGHT and 2 + ID_BYTES or 2 end

-- The flight that a request has joined, or nil.
local function flight_of(value)
  if byte(value) % HAS_KEY >= HAS_FLIGHT then return sub(value, 2, 1 + ID_BYTES) end
end

-- The idempotency key and the digest of the body, or nil.
local function key_of(value)
  if byte(value) % HAS_CACHE_KEY >= HAS_KEY then
    local at = after_flight(value)
    local body_at = at + DIGEST_BYTES
    return sub(value, at, body_at - 1), sub(value, body_at, body_at + DIGEST_BYTES - 1)
  end
end

-- The cache key, or nil; and whether the answer may be given again.
local function cache_key_of(value)
  local flags = byte(value)
  if flags % IS_REUSABLE >= HAS_CACHE_KEY then
    local at = after_flight(value) + (flags % HAS_CACHE_KEY >= HAS_KEY and 2 * DIGEST_BYTES or 0)
    return sub(value, at, at + DIGEST_BYTES - 1), flags % WAS_CACHED >= IS_REUSABLE
  end
end

-- All links at once: the idempotency key and the digest of the body, the cache key and the tenant, each or nil. The
-- nameless tenant (see tenants.py) counts as none: it has no limits.
local NOBODY = string.rep('\0', TENANT_ID_BYTES)
local function links_of(value)
  local flags = byte(value)
  local at = flags % HAS_KEY >= HAS_FLIGHT and 2 + ID_BYTES or 2
  local key, body, cache_key, tenant
  if flags % HAS_CACHE_KEY >= HAS_KEY then
    local body_at = at + DIGEST_BYTES
    key, body = sub(value, at, body_at - 1), sub(value, body_at, body_at + DIGEST_BYTES - 1)
    at = body_at + DIGEST_BYTES
  end
  if flags % IS_REUSABLE >= HAS_CACHE_KEY then
    cache_key = sub(value, at, at + DIGEST_BYTES - 1)
    at = at + DIGEST_BYTES
  end
  if flags >= HAS_TENANT then tenant = sub(value, at, at + TENANT_ID_BYTES - 1) end
  return key, body, cache_key, tenant ~= NOBODY and tenant or nil
end

-- The tenant, or nil if it is none or the nameless one.
local function tenant_of(value)
  local flags = byte(value)
  if flags < HAS_TENANT then return nil end
  local at = after_flight(value)
    + (flags % HAS_CACHE_KEY >= HAS_KEY and 2 * DIGEST_BYTES or 0)
    + (flags % IS_REUSABLE >= HAS_CACHE_KEY and DIGEST_BYTES or 0)
  local tenant = sub(value, at, at + TENANT_ID_BYTES - 1)
  return tenant ~= NOBODY and tenant or nil
end

-- Where the payload begins; behind the end of what is no value of ours.
local function payload_at(value)
  local flags = byte(value)
  if not flags then return 1 end
  local at = (flags % HAS_KEY >= HAS_FLIGHT and 2 + ID_BYTES or 2)
    + (flags % HAS_CACHE_KEY >= HAS_KEY and 2 * DIGEST_BYTES or 0)
    + (flags % IS_REUSABLE >= HAS_CACHE_KEY and DIGEST_BYTES or 0)
  if flags >= HAS_TENANT then at = at + TENANT_ID_BYTES end
  local high, low = byte(value, at, at + 1)
  if not low then return #value + 1 end
  return at + 2 + high * 256 + low
end

-- The payload of one value behind the prefix of another.
local function with_payload_of(value, other)
  return sub(value, 1, payload_at(value) - 1) .. sub(other, payload_at(other))
end

-- The kind of a value, by its first letter. The payload is msgpack of an array of three, which begins with a short
-- text:
-- 'accepted' in a request's record until it has ended, or the stage that made an output. The byte before a short text
-- is its length and this:
local SHORT_TEXT = 160
local ACCEPTED, PREPROCESS, SCORING = byte('a'), byte('p'), byte('s')
local function kind_of(value) return byte(value, payload_at(value) + 2) end

-- The state in which a record says that its request has ended; nil while it has not.
local function end_of(record)
  if not record then return nil end
  local at = payload_at(record) + 1
  local size, first = byte(record, at, at + 1)
  if not first or first == ACCEPTED then return nil end
  local state = sub(record, at + 1, at + size - SHORT_TEXT)
  return FINAL_STATES[state] and state
end

-- Adds to one of the totals.
local function count(name, n)
  if n > 0 then best_effort('HINCRBY', P .. 'counts', name, n) end
end

-- The stage and the queue of a lane, whose name is STAGE[.POOL]/MODEL@VERSION#DIGEST.
local function stage_of(lane) return string.match(lane, '^%l+') end
local function queue_of(lane) return string.match(lane, '^[^/]+') end

-- The lanes of a flight's three stages. scoring: its scoring lane, which alone names the pool.
local function lanes_of(scoring)
  local model = string.match(scoring, '/.*$')
  return 'preprocess' .. model, scoring, 'postprocess' .. model
end
