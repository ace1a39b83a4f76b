-- Lanes: bells, wakes, claims, and the parked workers.

-- Pushes one bell into the lane's queue: a stock Celery message (bell.json), with its places filled.
local function push_bell(lane)
  local queue = queue_of(lane)
  local bell = string.gsub(BELL, '__(%u+)__', {
    LANE = lane,
    LABEL = string.match(lane, '^[^#]+'),
    QUEUE = queue,
    STAGE = stage_of(lane),
    NUMBER = int(redis.call('INCR', P .. 'bells')),
  })
  redis.call('LPUSH', P .. queue, bell)
end

-- Whether an incarnation is fenced (the sweeper has found it silent): it may not claim, as what it held has gone to
-- others.
local function fenced(incarnation)
  local beat = redis.call('ZSCORE', P .. 'beats', incarnation)
  return not beat or tonumber(beat) <= 0
end

-- `ring` takes a batch for a parked worker, and `take` rings if more waits. That ends: only the first ring of a script
-- takes (it sets handed_out before), and a ring that does not take calls nothing that rings.
local take -- below
local handed_out = false
local set_repl = redis.set_repl or function() end -- fakeredis has neither a file nor replicas

local function ring_now(lane, now)
  local idle = P .. 'idle:' .. queue_of(lane)
  local entry, incarnation, field, limit, last
  repeat -- fenced workers are dead
    entry = redis.call('LPOP', idle)
    incarnation, field, limit, last = string.match(entry or '', '^(%S+) (%S+) (%d+) (%S+)$')
  until not entry or (incarnation and not fenced(incarnation))
  if entry then
    local wake = { 'RPUSH', P .. 'wake:' .. incarnation .. ':' .. field, lane }
    local batch
    if last == lane and not handed_out then
      handed_out = true
      batch = take(incarnation, field, lane, limit, now)
    end
    if batch then
      wake[4], wake[5] = batch[1], batch[2]
      for list = 3, 6 do
        for i = 1, #batch[3] do
          wake[#wake + 1] = batch[list][i] or ''
        end
      end
    end
    -- A wake is for a connection of this server: it goes neither to the file nor to replicas. Its batch is in the
    -- claims.
    set_repl(redis.REPL_NONE)
    local answer = redis.pcall(unpack(wake)) -- not `call`: whatever comes of it, all else is replicated
    best_effort('PEXPIRE', wake[2], WAKE_TTL_MS)
    set_repl(redis.REPL_ALL)
    if type(answer) == 'table' and answer.err then error(answer.err, 0) end
  elseif redis.call('SADD', P .. 'rung', lane) == 1 then
    push_bell(lane)
  end
end

-- Announces that a lane has work: wakes a parked worker, or else sends a bell unless one is on its way.
-- A worker that was parked after work of this very lane finds its next batch in the wake, claimed for it: that saves a
-- round trip. If the worker has gone, the batch is released like any other that it held.
-- A wake: the lane; with a batch also now (ms) and field, then its ids, scores, blobs and attempts ('' for none).
-- A bell only informs: where it cannot be sent, the sweeper rings a second later. A worker that was taken off the list
-- and gets no wake gives back what may have been claimed for it.
local function ring(lane, now) pcall(ring_now, lane, now) end

-- Claims the next batch of a lane: the most urgent `limit` requests, written as one field of the incarnation's claims.
-- Returns nil if nothing waits, else {now, field, ids, scores, blobs, attempts}.
-- The requests leave the waiting set last. If a script was stopped before that, a worker finds one there that is
-- claimed, or that has passed this stage. That does no harm: its input says which stage made it (see Batch in
-- batch.py), and a request has one end, whichever worker settles it.
function take(incarnation, field, lane, limit, now)
  local stage = stage_of(lane)
  best_effort('ZADD', P .. 'lanes', int(now), lane)
  local waiting = P .. 'q:' .. lane
  local head = redis.call('ZRANGE', waiting, 0, limit - 1, 'WITHSCORES')
  if #head == 0 then return nil end

  local ids, scores, n = {}, {}, 0
  for i = 1, #head, 2 do
    n = n + 1
    ids[n], scores[n] = head[i], head[i + 1]
  end
  -- Those that have ended meanwhile are dropped. Those past their deadline are left to the sweeper, which ends them;
  -- after scoring none expires.
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
    redis.call('ZREMRANGEBYRANK', waiting, 0, #head / 2 - 1)
    if redis.call('ZCARD', waiting) > 0 then ring(lane, now) end
    return nil
  end

  -- A suspect (its process died with it) runs alone: it is taken if it is the first, else it is left waiting.
  local attempts, left = {}, {}
  if redis.call('EXISTS', P .. 'attempts') == 1 then
    attempts = redis.call('HMGET', P .. 'attempts', unpack(ids))
    local keep_ids, keep_scores, keep_attempts, alone = {}, {}, {}, false
    for i, id in ipairs(ids) do
      local suspect = attempts[i] and attempts_of(attempts[i]).suspect
      if #keep_ids == 0 or not (suspect or alone) then
        keep_ids[#keep_ids + 1] = id
        keep_scores[#keep_scores + 1] = scores[i]
        keep_attempts[#keep_attempts + 1] = attempts[i]
        alone = alone or suspect
      else
        left[id] = true
      end
    end
    ids, scores, attempts = keep_ids, keep_scores, keep_attempts
  end

  local sources = keys_of(stage == 'preprocess' and 'r:' or 'o:', ids)
  if stage == 'preprocess' and joined then
    for i, id in ipairs(ids) do
      if first_gone[id] then sources[i] = P .. 'i:' .. id end
    end
  end
  local blobs = redis.call('MGET', unpack(sources))
  if stage == 'preprocess' and joined then -- a first member that has ended, but has yet to leave
    for i, id in ipairs(ids) do
      if end_of(blobs[i]) then blobs[i] = redis.call('GET', P .. 'i:' .. id) or blobs[i] end
    end
  end

  local claim = lane .. '|' .. int(now) .. '|' .. table.concat(scores, ',') .. '|' .. table.concat(ids)
  redis.call('HSET', P .. 'c:' .. incarnation, field, claim)
  if audited then -- at once: from here on the claim exists, whatever comes of the rest
    audit('what', 'claimed', 'incarnation', incarnation, 'field', field, 'lane', lane, 'ids', table.concat(ids))
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
  if next(left) then
    local taken = {}
    for i = 1, #head, 2 do
      if not left[head[i]] then taken[#taken + 1] = head[i] end
    end
    redis.call('ZREM', waiting, unpack(taken))
  else
    redis.call('ZREMRANGEBYRANK', waiting, 0, #head / 2 - 1)
  end

  count(stage .. ':claimed', #ids)
  if redis.call('ZCARD', waiting) > 0 then ring(lane, now) end
  return { int(now), field, ids, scores, blobs, attempts }
end

-- Puts a worker on the list of its queue's parked workers. entry: 'INCARNATION FIELD LIMIT LANE', with the field and
-- the limit for a batch of that lane. Returns 'parked'; or 'work' if some waits in the lane (claim it), or 'bell' if
-- another lane's waits in the queue (answer that).
local function park(entry)
  local lane = string.match(entry, ' (%S+)$')
  local queue = queue_of(lane)
  if redis.call('ZCARD', P .. 'q:' .. lane) > 0 then return 'work' end
  if redis.call('LLEN', P .. queue) > 0 then
    for _, rung in ipairs(redis.call('SMEMBERS', P .. 'rung')) do
      if rung ~= lane and queue_of(rung) == queue then return 'bell' end
    end
  end
  redis.call('LPUSH', P .. 'idle:' .. queue, entry)
  best_effort('PEXPIRE', P .. 'idle:' .. queue, IDLE_TTL_MS)
  return 'parked'
end
