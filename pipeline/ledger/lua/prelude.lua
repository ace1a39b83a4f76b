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

-- Those of ids that have not ended, with their scores in `open`. Returns two lists: still open (bool), score.
local function open_scores(ids)
  return redis.call('ZMSCORE', P .. 'open', unpack(ids))
end

-- The ends of requests: each leaves `open` (the one terminal commit), its record becomes its end.
-- ids: all still open (the caller has looked, in the same script). ends: their new records. held: their idempotency keys
-- with the digests of their bodies, '' without. The two lives in ms: a key never outlives what it stands for.
local function commit_ends(ids, ends, held, ttl, key_ttl)
  if #ids == 0 then return end
  redis.call('ZREM', P .. 'open', unpack(ids))
  local set = { 'MSETEX', #ids }
  for i, id in ipairs(ids) do
    set[#set + 1] = P .. 'r:' .. id
    set[#set + 1] = ends[i]
  end
  set[#set + 1] = 'PX'
  set[#set + 1] = ttl
  redis.call(unpack(set))
  local keys = { 'MSETEX', 0 }
  for i, key in ipairs(held) do
    if key ~= '' then
      keys[2] = keys[2] + 1
      keys[#keys + 1] = P .. 'k:' .. string.sub(key, 1, 16)
      keys[#keys + 1] = ids[i] .. string.sub(key, 17)
    end
  end
  if keys[2] > 0 then
    keys[#keys + 1] = 'PX'
    keys[#keys + 1] = key_ttl
    redis.call(unpack(keys))
  end
  redis.call('DEL', unpack(keys_of('o:', ids)))
  if redis.call('EXISTS', P .. 'attempts') == 1 then redis.call('HDEL', P .. 'attempts', unpack(ids)) end
  redis.call('PUBLISH', P .. 'ended', table.concat(ids))
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
  local opens = open_scores(ids)
  local live_ids, live_scores = {}, {}
  for i, id in ipairs(ids) do
    if opens[i] and (stage == 'postprocess' or tonumber(opens[i]) > now) then
      live_ids[#live_ids + 1] = id
      live_scores[#live_scores + 1] = scores[i]
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
      past[#past + 1] = '+inf'
      past[#past + 1] = id
    end
    redis.call(unpack(past))
  end
  redis.call('HSET', P .. 'c:' .. incarnation, field,
    lane .. '|' .. int(now) .. '|' .. table.concat(scores, ',') .. '|' .. table.concat(ids))
  count(stage .. ':claimed', #ids)
  if redis.call('ZCARD', waiting) > 0 then ring(lane, now) end
  local blobs = redis.call('MGET', unpack(keys_of(stage == 'preprocess' and 'r:' or 'o:', ids)))
  return { int(now), field, ids, scores, blobs, attempts }
end

-- Let a worker stand on the list of its queue's lingering workers. entry: 'INCARNATION FIELD LIMIT LANE', field and
-- limit for a batch of that lane. Returns 'joined', 'work' if some waits there (claim it), or 'bell' if another lane's
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
  return 'joined'
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
  if #old > 0 then redis.call('DEL', unpack(keys_of('d:', old))) end
end
