-- Lanes: bells, wakes, claims, and the workers that linger.

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
  return not beat or tonumber(beat) <= 0
end

local take -- below: it rings, too
local set_repl = redis.set_repl or function() end -- fakeredis has neither a file nor replicas

-- Say that a lane has work: wake a worker that lingers, else send a bell unless one is on its way.
-- A worker that lingers after work of this very lane finds its next batch claimed for it, in the wake: that saves it a
-- round trip. If it is gone by now, the batch is released like any other that it held.
-- A wake: the lane; with a batch also now and field, then its ids, scores, blobs and ('' for none) attempts.
local function ring(lane, now)
  local idle = P .. 'idle:' .. string.match(lane, '^[^/]+')
  local entry, incarnation, field, limit, last
  repeat -- those of the fenced are dead
    entry = redis.call('LPOP', idle)
    incarnation, field, limit, last = string.match(entry or '', '^(%S+) (%S+) (%d+) (%S+)$')
  until not entry or not fenced(incarnation)
  if entry then
    local wake = { 'RPUSH', P .. 'wake:' .. incarnation .. ':' .. field, lane }
    local batch = last == lane and take(incarnation, field, lane, limit, now)
    if batch then
      wake[4], wake[5] = batch[1], batch[2]
      for list = 3, 6 do
        for i = 1, #batch[3] do wake[#wake + 1] = batch[list][i] or '' end
      end
    end
    -- A wake is for a connection of this server's: neither the file nor replicas are told. Its batch stands in the claims.
    set_repl(redis.REPL_NONE)
    redis.call(unpack(wake))
    redis.call('PEXPIRE', wake[2], 5000)
    set_repl(redis.REPL_ALL)
  elseif redis.call('SADD', P .. 'rung', lane) == 1 then
    push_bell(lane)
  end
end

-- Claim the next batch of a lane: the most urgent `limit` requests, written as one field of the incarnation's claims.
-- Returns nil if nothing waits, else {now, field, ids, scores, blobs, attempts}.
function take(incarnation, field, lane, limit, now)
  local stage = string.match(lane, '^%l+')
  redis.call('ZADD', P .. 'lanes', int(now), lane)
  local waiting = P .. 'q:' .. lane
  local popped = redis.call('ZPOPMIN', waiting, limit)
  if #popped == 0 then return nil end

  local ids, scores, n = {}, {}, 0
  for i = 1, #popped, 2 do
    n = n + 1
    ids[n], scores[n] = popped[i], popped[i + 1]
  end
  -- Ended meanwhile: drop. Past its deadline: leave it to the sweeper, which ends it; after scoring none expires.
  local wanted, opens, joined = wanted_of(ids)
  local live_ids, live_scores, first_gone, first_late = {}, {}, {}, {}
  n = 0
  for i, id in ipairs(ids) do
    local deadline = joined and joined[i] and wanted[i] and latest_deadline(id) or opens[i]
    if wanted[i] and (stage == 'postprocess' or tonumber(deadline) > now) then
      n = n + 1
      live_ids[n], live_scores[n] = id, scores[i]
      if joined then
        first_gone[id] = not opens[i]
        first_late[id] = opens[i] and tonumber(opens[i]) <= now -- it expires, the others go on
      end
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
    n = 3
    for _, id in ipairs(ids) do
      if not first_late[id] then
        past[n + 1], past[n + 2] = '+inf', id
        n = n + 2
      end
    end
    if n > 3 then redis.call(unpack(past)) end
    for i, claimed in ipairs(joined and joined_of(ids) or {}) do
      if claimed then redis.call('HSET', P .. 'joined', ids[i], int(now)) end
    end
  end
  redis.call('HSET', P .. 'c:' .. incarnation, field,
    lane .. '|' .. int(now) .. '|' .. table.concat(scores, ',') .. '|' .. table.concat(ids))
  if audited then
    audit('what', 'claimed', 'incarnation', incarnation, 'field', field, 'lane', lane, 'ids', table.concat(ids))
  end
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
  redis.call('PEXPIRE', P .. 'idle:' .. queue, 5000)
  return 'lingers'
end
