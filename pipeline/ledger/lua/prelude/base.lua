-- Stands before every script. Keys: see keys.py.
local P = '{p00}:'
local byte, sub = string.byte, string.sub -- loops over requests use them: a global costs two lookups each time

-- An integer as text: Lua would print 1.7e+12 for a time.
local function int(n) return string.format('%.0f', n) end

-- A script is no transaction. The server may refuse any command - this user's rights, a wrong type - and what was done
-- before it stays done. So every script reads first, writes what is new before it takes away what is old, and takes away
-- last what others look for: an entry of `open`, a claim, a dead letter. What is left half done stands twice, which is
-- harmless (see lua/prelude/lanes.lua), and never nowhere; the sweeper repairs the rest (scrub.lua, reopen.lua).
-- What only tells or counts is written with `tell`, which a refusal does not stop.
local tell = redis.pcall

-- The proof's log: what befell a batch, one entry each. And whether a script was stopped between writing that requests have
-- ended and having them leave `open` (see commit_ends). Known after now_ms(), which looks at it with what it reads anyway.
local audited, was_stopped = false, false
local function audit(...)
  if audited then tell('XADD', P .. 'events', '*', ...) end
end

-- The server's time in ms. It never goes back, not even by a failover to a server whose clock is behind: from then on
-- the difference is added, for a time that stood still would requeue nothing. The sweeper takes it back (elect.lua).
local function now_ms()
  local t = redis.call('TIME')
  local known = redis.call('MGET', P .. 'clock', P .. 'offset', P .. 'audit', P .. 'ending')
  audited, was_stopped = known[3], known[4]
  local seen, offset = tonumber(known[1] or '0'), tonumber(known[2] or '0')
  local now = t[1] * 1000 + math.floor(t[2] / 1000) + offset
  if now < seen then
    tell('SET', P .. 'offset', int(offset + seen - now))
    return seen
  end
  if now > seen + 20 then tell('SET', P .. 'clock', int(now)) end
  return now
end

-- Write values that live for a while. set: {'MSETEX', how many, key, value, ...}, one command where the server has it
-- (Valkey from 9.0, Redis from 8.4); elsewhere, or where this user may not, each value takes a SET.
local function set_with_life(set, ms)
  local last = #set
  set[last + 1], set[last + 2] = 'PX', ms
  local answer = redis.pcall(unpack(set))
  if type(answer) == 'table' and answer.err then
    for i = 3, last, 2 do redis.call('SET', set[i], set[i + 1], 'PX', ms) end
  end
end

-- What is known of a request's attempts. What nobody understands counts as none: it must not stop a lane.
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

local function keys_of(kind, ids)
  local keys = {}
  for i, id in ipairs(ids) do keys[i] = P .. kind .. id end
  return keys
end

-- Waiting scores: priority * BAND + deadline (ms).
local BAND = 8796093022208

-- What scripts read of a value's prefix (see records.py), each alone: most requests have little of it.

-- Where the part after the flight begins.
local function after_flight(value) return string.byte(value) % 2 == 1 and 18 or 2 end

-- The flight that a request has joined, or nil.
local function flight_of(value)
  if string.byte(value) % 2 == 1 then return string.sub(value, 2, 17) end
end

-- Its idempotency key and the digest of its body, or nil.
local function key_of(value)
  if string.byte(value) % 4 >= 2 then
    local at = after_flight(value)
    return string.sub(value, at, at + 15), string.sub(value, at + 16, at + 31)
  end
end

-- Its cache key, or nil; and whether its answer may be given again.
local function cache_key_of(value)
  local flags = string.byte(value)
  if flags % 8 >= 4 then
    local at = after_flight(value) + (flags % 4 >= 2 and 32 or 0)
    return string.sub(value, at, at + 15), flags % 16 >= 8
  end
end

-- Where the tenant is, if it has one.
local function after_keys(value)
  local flags = string.byte(value)
  return after_flight(value) + (flags % 4 >= 2 and 32 or 0) + (flags % 8 >= 4 and 16 or 0)
end

-- The tenant of whose unfinished requests it is one, or nil: the nameless tenant's (tenants.py) are not counted.
local NOBODY = string.rep('\0', 8)
local function tenant_of(value)
  if string.byte(value) >= 32 then
    local at = after_keys(value)
    local tenant = string.sub(value, at, at + 7)
    return tenant ~= NOBODY and tenant or nil
  end
end

-- Where the rest begins; behind its end in what is no value of ours.
local function payload_at(value)
  local flags = byte(value)
  if not flags then return 1 end
  local at = (flags % 2 == 1 and 18 or 2) + (flags % 4 >= 2 and 32 or 0) + (flags % 8 >= 4 and 16 or 0)
  if flags >= 32 then at = at + 8 end
  local high, low = byte(value, at, at + 1)
  if not low then return #value + 1 end
  return at + 2 + high * 256 + low
end

-- The kind of a value, by its first letter: the rest is msgpack of an array of three, which begins with a short text.
-- A request's record is 'accepted' until it has ended; outputs are of the stage that made them.
local ACCEPTED, PREPROCESS, SCORING = byte('a'), byte('p'), byte('s')
local function kind_of(value) return byte(value, payload_at(value) + 2) end

-- The state in which a record says that its request has ended; nil while it has not.
local FINAL_STATES = { succeeded = true, invalid = true, dead = true, expired = true, cancelled = true }
local function end_of(record)
  if not record then return nil end
  local at = payload_at(record) + 1
  local size, first = byte(record, at, at + 1)
  if not first or first == ACCEPTED then return nil end
  local state = sub(record, at + 1, at + size - 160) -- msgpack: a short text's length is in the byte before it
  return FINAL_STATES[state] and state
end

-- All of that at once: its idempotency key and the digest of its body, its cache key and its tenant, each or nil.
local function links_of(value)
  local flags = byte(value)
  local at = flags % 2 == 1 and 18 or 2
  local key, body, cache_key, tenant
  if flags % 4 >= 2 then
    key, body = sub(value, at, at + 15), sub(value, at + 16, at + 31)
    at = at + 32
  end
  if flags % 8 >= 4 then
    cache_key = sub(value, at, at + 15)
    at = at + 16
  end
  if flags >= 32 then tenant = sub(value, at, at + 7) end
  return key, body, cache_key, tenant ~= NOBODY and tenant or nil
end

local function count(name, n)
  if n > 0 then tell('HINCRBY', P .. 'counts', name, n) end
end

-- The lanes of a flight's three stages. scoring: its scoring lane, which alone names the pool.
local function lanes_of(scoring)
  local version = string.match(scoring, '/.*$')
  return 'preprocess' .. version, scoring, 'postprocess' .. version
end
