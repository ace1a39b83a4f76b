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

-- Push one bell: a stock Celery message, built once by the broker module, into the lane's queue.
local function push_bell(lane)
  local queue = string.match(lane, '^[^/]+')
  local bell = string.gsub(BELL, '__(%u+)__', {
    LANE = lane,
    LABEL = string.match(lane, '^[^#]+'),
    QUEUE = queue,
    STAGE = string.match(lane, '^%l+'),
    NUMBER = int(redis.call('INCR', P .. 'bells')),
  })
  redis.call('LPUSH', P .. queue, bell)
end

-- A fenced incarnation (swept for silence) may not claim: what it held has gone to others.
local function fenced(incarnation)
  local beat = redis.call('ZSCORE', P .. 'beats', incarnation)
  return not beat or tonumber(beat) == 0
end

local take -- below: it rings, too

-- Say that a lane has work: wake a worker that lingers, else send a bell unless one is on its way.
-- A worker that lingers after work of this very lane finds its next batch claimed for it, in the wake: that saves it a
-- round trip. If it is gone by now, the batch is released like any other that it held.
-- A wake: the lane; with a batch also now and field, then its ids, scores, blobs and ('' for none) attempts.
local function ring(lane, now)
  local entry = redis.call('LPOP', P .. 'idle:' .. string.match(lane, '^[^/]+'))
  if entry then
    local incarnation, field, limit, last = string.match(entry, '^(%S+) (%S+) (%d+) (%S+)$')
    local wake = { 'RPUSH', P .. 'wake:' .. incarnation .. ':' .. field, lane }
    local batch = last == lane and not fenced(incarnation) and take(incarnation, field, lane, limit, now)
    if batch then
      wake[4], wake[5] = batch[1], batch[2]
      for list = 3, 6 do
        for i = 1, #batch[3] do wake[#wake + 1] = batch[list][i] or '' end
      end
    end
    redis.call(unpack(wake))
    redis.call('PEXPIRE', wake[2], 5000)
  elseif redis.call('SADD', P .. 'rung', lane) == 1 then
    push_bell(lane)
  end
end

-- Flights: most are of one request, whose id is also the flight's, and no more is kept of them. Those that others have
-- joined stand in `joined` with their members in `m:`.

-- For each flight: false, or if it has been joined when scoring claimed it (ms, '0': not yet). nil: none has been.
local function joined_of(ids)
  if redis.call('EXISTS', P .. 'joined') == 0 then return nil end
  return redis.call('HMGET', P .. 'joined', unpack(ids))
end

-- Which flights anybody still waits for. Returns for each: whether so, its first member's score in `open` (false if that
-- has ended), and joined_of.
local function wanted_of(ids)
  local opens, joined = redis.call('ZMSCORE', P .. 'open', unpack(ids)), joined_of(ids)
  if not joined then return opens, opens, nil end
  local wanted = {}
  for i, id in ipairs(ids) do
    if joined[i] then
      wanted[i] = redis.call('ZCARD', P .. 'm:' .. id) > 0
    else
      wanted[i] = opens[i]
    end
  end
  return wanted, opens, joined
end

-- The waiting score of a flight that has been joined: the best priority and the latest deadline of its members.
local function merged_score(flight)
  local members, best, latest = P .. 'm:' .. flight, nil, 0
  for priority = 0, 2 do
    local from, to = int(priority * BAND), '(' .. int((priority + 1) * BAND)
    local last = redis.call('ZRANGE', members, to, from, 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')
    if last[2] then
      best = best or priority
      latest = math.max(latest, last[2] - priority * BAND)
    end
  end
  return int((best or 0) * BAND + latest)
end

-- The score with which a flight waits (again): as it had, or its members' if it has been joined.
local function waiting_score(flight, had)
  if redis.call('HEXISTS', P .. 'joined', flight) == 1 then return merged_score(flight) end
  return had
end

-- Move a joined flight to where its members want it, if it waits at all. lane: any of its model version.
local function reposition(flight, lane)
  local score, version = merged_score(flight), string.match(lane, '/.*$')
  for _, queue in ipairs({ 'preprocess', string.match(lane, '^scoring[^/]*') or 'scoring', 'postprocess' }) do
    redis.call('ZADD', P .. 'q:' .. queue .. version, 'XX', score, flight)
  end
end

-- A flight waits again after scoring had claimed it: deadlines count again.
local function uncommit(flight, score)
  if redis.call('HEXISTS', P .. 'joined', flight) == 1 then
    redis.call('HSET', P .. 'joined', flight, '0')
    score = redis.call('ZSCORE', P .. 'm:' .. flight, flight) or score
  end
  redis.call('ZADD', P .. 'open', 'XX', int(score % BAND), flight)
end

-- The ends of requests: each leaves `open` (the one terminal commit), its record becomes its end.
-- ids: all still open (the caller has looked, in the same script). ends: their new records. The two lives in ms: a key
-- never outlives what it stands for.
local function commit_ends(ids, ends, state, ttl, key_ttl)
  if #ids == 0 then return end
  redis.call('ZREM', P .. 'open', unpack(ids))
  local set, held = { 'MSETEX', #ids }, { 'MSETEX', 0 }
  for i, id in ipairs(ids) do
    set[#set + 1] = P .. 'r:' .. id
    set[#set + 1] = ends[i]
    local _, key = front_of(ends[i])
    if key ~= '' then
      held[2] = held[2] + 1
      held[#held + 1] = P .. 'k:' .. string.sub(key, 1, 16)
      held[#held + 1] = id .. string.sub(key, 17)
    end
  end
  set[#set + 1] = 'PX'
  set[#set + 1] = ttl
  redis.call(unpack(set))
  if held[2] > 0 then
    held[#held + 1] = 'PX'
    held[#held + 1] = key_ttl
    redis.call(unpack(held))
  end
  count(state, #ids)
  redis.call('PUBLISH', P .. 'ended', table.concat(ids))
end

-- Clear away what flights leave when they are over. records: a member's as ended, for the cache key; succeeded: whether
-- the first member's end is a result. Then who looked for it in the cache a moment too early finds it here.
local function close_flights(ids, records, succeeded)
  if #ids == 0 then return end
  redis.call('DEL', unpack(keys_of('o:', ids)))
  if redis.call('EXISTS', P .. 'attempts') == 1 then redis.call('HDEL', P .. 'attempts', unpack(ids)) end
  local landed, gone, of = { 'MSETEX', 0 }, {}, {}
  for i, id in ipairs(ids) do
    local _, _, cache_key, lasting = front_of(records[i])
    if cache_key ~= '' then
      if succeeded and lasting then
        landed[2] = landed[2] + 1
        landed[#landed + 1] = P .. 'f:' .. cache_key
        landed[#landed + 1] = id
      else
        gone[#gone + 1], of[#of + 1] = P .. 'f:' .. cache_key, id
      end
    end
  end
  if #gone > 0 then
    for i, value in ipairs(redis.call('MGET', unpack(gone))) do
      if value and string.sub(value, 1, 16) == of[i] then redis.call('DEL', gone[i]) end -- not another's by now
    end
  end
  if landed[2] > 0 then
    landed[#landed + 1] = 'PX'
    landed[#landed + 1] = 2000
    redis.call(unpack(landed))
  end
end

-- What is left of a joined flight when its last member is gone.
local function forget_joined(flight)
  redis.call('DEL', P .. 'm:' .. flight, P .. 'i:' .. flight, P .. 'e:' .. flight)
  redis.call('HDEL', P .. 'joined', flight)
end

-- Claim the next batch of a lane: the most urgent `limit` requests, written as one field of the incarnation's claims.
-- Returns nil if nothing waits, else {now, field, ids, scores, blobs, attempts}.
function take(incarnation, field, lane, limit, now)
  local stage = string.match(lane, '^%l+')
  redis.call('ZADD', P .. 'lanes', int(now), lane)
  local waiting = P .. 'q:' .. lane
  local popped = redis.call('ZPOPMIN', waiting, limit)
  if #popped == 0 then return nil end

  local ids, scores = {}, {}
  for i = 1, #popped, 2 do
    ids[#ids + 1] = popped[i]
    scores[#scores + 1] = popped[i + 1]
  end
  -- Ended meanwhile: drop. Past its deadline: leave it to the sweeper, which ends it; after scoring none expires.
  local wanted, opens, joined = wanted_of(ids)
  local live_ids, live_scores, first_gone, first_late = {}, {}, {}, {}
  for i, id in ipairs(ids) do
    local deadline = joined and joined[i] and scores[i] % BAND or opens[i]
    if wanted[i] and (stage == 'postprocess' or tonumber(deadline) > now) then
      live_ids[#live_ids + 1] = id
      live_scores[#live_scores + 1] = scores[i]
      first_gone[id] = not opens[i]
      first_late[id] = opens[i] and tonumber(opens[i]) <= now -- it expires, the others go on
    end
  end
  ids, scores = live_ids, live_scores
  if #ids == 0 then
    if redis.call('ZCARD', waiting) > 0 then ring(lane, now) end
    return nil
  end

  -- A suspect (its process died under it) runs alone: take it if it is first, else put it back.
  local attempts = {}
  if redis.call('EXISTS', P .. 'attempts') == 1 then
    attempts = redis.call('HMGET', P .. 'attempts', unpack(ids))
    local keep_ids, keep_scores, keep_attempts, back = {}, {}, {}, {}
    for i, id in ipairs(ids) do
      local suspect = attempts[i] and attempts_of(attempts[i]).suspect
      local alone = #keep_ids == 1 and keep_attempts.alone
      if #keep_ids == 0 or not (suspect or alone) then
        keep_ids[#keep_ids + 1] = id
        keep_scores[#keep_scores + 1] = scores[i]
        keep_attempts[#keep_attempts + 1] = attempts[i]
        if suspect then keep_attempts.alone = true end
      else
        back[#back + 1] = scores[i]
        back[#back + 1] = id
      end
    end
    if #back > 0 then redis.call('ZADD', waiting, unpack(back)) end
    keep_attempts.alone = nil
    ids, scores, attempts = keep_ids, keep_scores, keep_attempts
  end

  if stage == 'scoring' then
    -- The point of no return for expiry and cancelling.
    local past = { 'ZADD', P .. 'open', 'XX' }
    for _, id in ipairs(ids) do
      if not first_late[id] then
        past[#past + 1] = '+inf'
        past[#past + 1] = id
      end
    end
    if #past > 3 then redis.call(unpack(past)) end
    for i, claimed in ipairs(joined and joined_of(ids) or {}) do
      if claimed then redis.call('HSET', P .. 'joined', ids[i], int(now)) end
    end
  end
  redis.call('HSET', P .. 'c:' .. incarnation, field,
    lane .. '|' .. int(now) .. '|' .. table.concat(scores, ',') .. '|' .. table.concat(ids))
  count(stage .. ':claimed', #ids)
  if redis.call('ZCARD', waiting) > 0 then ring(lane, now) end
  local sources = keys_of(stage == 'preprocess' and 'r:' or 'o:', ids)
  if stage == 'preprocess' and joined then
    for i, id in ipairs(ids) do
      if first_gone[id] then sources[i] = P .. 'i:' .. id end
    end
  end
  local blobs = redis.call('MGET', unpack(sources))
  return { int(now), field, ids, scores, blobs, attempts }
end

-- Let a worker stand on the list of its queue's lingering workers. entry: 'INCARNATION FIELD LIMIT LANE', field and
-- limit for a batch of that lane. Returns 'lingers', 'work' if some waits there (claim it), or 'bell' if another lane's
-- waits in the queue (answer that).
local function join(entry)
  local lane = string.match(entry, ' (%S+)$')
  local queue = string.match(lane, '^[^/]+')
  if redis.call('ZCARD', P .. 'q:' .. lane) > 0 then return 'work' end
  if redis.call('LLEN', P .. queue) > 0 then
    for _, rung in ipairs(redis.call('SMEMBERS', P .. 'rung')) do
      if rung ~= lane and string.match(rung, '^[^/]+') == queue then return 'bell' end
    end
  end
  redis.call('LPUSH', P .. 'idle:' .. queue, entry)
  redis.call('PEXPIRE', P .. 'idle:' .. queue, 5000) -- entries of workers that died here go with it
  return 'lingers'
end

-- Dead letters are bounded by age (oldest_ms) and by count; what goes, goes whole.
local function trim_letters(oldest_ms, most)
  local old = redis.call('ZRANGE', P .. 'dead', '-inf', '(' .. int(oldest_ms), 'BYSCORE', 'LIMIT', 0, 128)
  local excess = redis.call('ZCARD', P .. 'dead') - #old - most
  if #old > 0 then redis.call('ZREM', P .. 'dead', unpack(old)) end
  if excess > 0 then
    local popped = redis.call('ZPOPMIN', P .. 'dead', math.min(excess, 128))
    for i = 1, #popped, 2 do old[#old + 1] = popped[i] end
  end
  if #old > 0 then
    redis.call('DEL', unpack(keys_of('d:', old)))
    redis.call('DEL', unpack(keys_of('dm:', old)))
  end
end
