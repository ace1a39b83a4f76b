-- Stands before every script. Keys: see keys.py.
local P = '{p00}:'
local byte, sub = string.byte, string.sub -- loops over requests use them: a global costs two lookups each time

-- An integer as text: Lua would print 1.7e+12 for a time.
local function int(n) return string.format('%.0f', n) end

-- The proof's log: what befell a batch, one entry each. Known after now_ms(), which looks at it with what it reads anyway.
local audited = false
local function audit(...)
  if audited then redis.call('XADD', P .. 'events', '*', ...) end
end

-- The server's time in ms. It never goes back, not even by a failover to a server whose clock is behind: from then on
-- the difference is added, for a time that stood still would revive nothing.
local function now_ms()
  local t = redis.call('TIME')
  local known = redis.call('MGET', P .. 'clock', P .. 'offset', P .. 'audit')
  audited = known[3]
  local seen, offset = tonumber(known[1] or '0'), tonumber(known[2] or '0')
  local now = t[1] * 1000 + math.floor(t[2] / 1000) + offset
  if now < seen then
    redis.call('SET', P .. 'offset', int(offset + seen - now))
    return seen
  end
  if now > seen + 20 then redis.call('SET', P .. 'clock', int(now)) end
  return now
end

-- What is known of a request's attempts; nothing may stop a script that has taken something away already.
local function attempts_of(text)
  local ok, attempts = pcall(cjson.decode, text or '')
  return ok and attempts or { starts = 0, losses = 0, suspect = false, errors = {} }
end

local function keys_of(kind, ids)
  local keys = {}
  for i, id in ipairs(ids) do keys[i] = P .. kind .. id end
  return keys
end

-- Waiting scores: priority * BAND + deadline (ms).
local BAND = 8796093022208

-- What scripts read of a value's front (see records.py), each alone: most requests have little of it.

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

-- Where the owner is, if it has one.
local function after_keys(value)
  local flags = string.byte(value)
  return after_flight(value) + (flags % 4 >= 2 and 32 or 0) + (flags % 8 >= 4 and 16 or 0)
end

-- The API key whose share of unfinished requests it is part of, or nil.
local function owner_of(value)
  if string.byte(value) >= 32 then
    local at = after_keys(value)
    return string.sub(value, at, at + 7)
  end
end

-- Where the rest begins.
local function rest_at(value)
  local at = after_keys(value) + (string.byte(value) >= 32 and 8 or 0)
  local high, low = string.byte(value, at, at + 1)
  return at + 2 + high * 256 + low
end

-- All of that at once: its idempotency key and the digest of its body, its cache key and its owner, each or nil.
local function ties_of(value)
  local flags = byte(value)
  local at = flags % 2 == 1 and 18 or 2
  local key, body, cache_key, owner
  if flags % 4 >= 2 then
    key, body = sub(value, at, at + 15), sub(value, at + 16, at + 31)
    at = at + 32
  end
  if flags % 8 >= 4 then
    cache_key = sub(value, at, at + 15)
    at = at + 16
  end
  if flags >= 32 then owner = sub(value, at, at + 7) end
  return key, body, cache_key, owner
end

local function count(name, n)
  if n > 0 then redis.call('HINCRBY', P .. 'counts', name, n) end
end
