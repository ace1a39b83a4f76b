-- Stands before every script. Keys: see keys.py.
local P = '{p00}:'

-- An integer as text: Lua would print 1.7e+12 for a time.
local function int(n) return string.format('%.0f', n) end

-- The server's time in ms. It never goes back, not even by a failover to a server whose clock is behind: from then on
-- the difference is added, for a time that stood still would revive nothing.
local function now_ms()
  local t = redis.call('TIME')
  local known = redis.call('MGET', P .. 'clock', P .. 'offset')
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

-- What scripts read of a value's front (see records.py): flight, idempotency key with body digest, and cache key ('' for
-- none), whether its answer may be given again, and where the rest begins.
local function front_of(value)
  local flags, at = string.byte(value) or 0, 2
  local flight, key, cache_key = '', '', ''
  if flags % 2 >= 1 then
    flight, at = string.sub(value, at, at + 15), at + 16
  end
  if flags % 4 >= 2 then
    key, at = string.sub(value, at, at + 31), at + 32
  end
  if flags % 8 >= 4 then
    cache_key, at = string.sub(value, at, at + 15), at + 16
  end
  local high, low = string.byte(value, at, at + 1)
  return flight, key, cache_key, flags >= 8, at + 2 + (high or 0) * 256 + (low or 0)
end

local function count(name, n)
  if n > 0 then redis.call('HINCRBY', P .. 'counts', name, n) end
end
