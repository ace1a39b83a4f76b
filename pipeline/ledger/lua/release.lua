#!lua flags=allow-oom
-- Gives claimed batches back to their lanes, with the scores they had, and rings. Call it until none is left: one call
-- takes no more batches once it has released SCRIPT_LIMIT requests.
-- Returns the number of requests released, and 1 if more batches are to be released.
-- A batch waits again before its claim goes; its attempts are charged in between, so that a script that is stopped
-- charges nothing twice.
local incarnation = ARGV[1]
local prefix = ARGV[2] -- of the fields to release ('' for all)
local charge = ARGV[3] -- 'start', 'loss' or 'none'
local reason = ARGV[4] -- the error that is charged
local signal = ARGV[5] -- that ended the process ('' if none)
local older_ms = tonumber(ARGV[6]) -- releases only batches that have been claimed for so long (0: all)
local fences = ARGV[7] == '1' -- the incarnation is dead for ever
local category = ARGV[8] -- of the failure
local running = ARGV[9] -- the field that was running: it alone is charged, the others never began ('': charges all)
local queue = ARGV[10] -- whose list loses the parked workers of that prefix ('' for none)

local now = now_ms()
if fences then redis.call('ZADD', P .. 'beats', int(-now), incarnation) end
if queue ~= '' then -- first, or another script would claim for a worker that has gone
  local idle, name = P .. 'idle:' .. queue, incarnation .. ' ' .. prefix
  for _, entry in ipairs(redis.call('LRANGE', idle, 0, -1)) do
    if sub(entry, 1, #name) == name then redis.call('LREM', idle, 0, entry) end
  end
end

-- The account after one more attempt that failed. Its definition is Attempts.charge in contracts/attempts.py; a test
-- holds the two to the same account. The death of a process is evidence, and makes a suspect at once; a worker that
-- vanished is none, and makes one from SUSPECT_LOSSES on.
local function charged_to(known, stage)
  local a = attempts_of(known)
  if charge == 'start' then
    a.starts = a.starts + 1
    a.suspect = true
  else
    a.losses = a.losses + 1
    a.suspect = a.suspect or a.losses >= SUSPECT_LOSSES
  end
  local entry = { n = a.starts + a.losses, at = now, stage = stage, error = reason, category = category }
  if signal ~= '' then entry.signal = signal end
  table.insert(a.errors, entry)
  if #a.errors > KEPT_ERRORS then table.remove(a.errors, 1) end
  return cjson.encode(a)
end

-- The requests of a batch that go back, and where each waits then. One whose outcome is written (it is being fanned
-- out) does not go back. One that scoring has done waits for the next stage: scoring's input is gone.
local function going_back(stage, lane, scores, ids)
  local all, had = {}, {}
  for score in string.gmatch(scores, '[^,]+') do
    all[#all + 1] = sub(ids, #all * ID_BYTES + 1, (#all + 1) * ID_BYTES)
    had[#had + 1] = score
  end
  local wanted = wanted_of(all)
  local outputs = stage == 'scoring' and redis.call('MGET', unpack(keys_of('o:', all))) or {}
  local back = {}
  for i, id in ipairs(all) do
    if wanted[i] and redis.call('HEXISTS', P .. 'fanout', id) == 0 then
      local done = outputs[i] and kind_of(outputs[i]) == SCORING
      local to = done and 'postprocess' .. string.match(lane, '/.*$') or lane
      back[#back + 1] = { id = id, score = waiting_score(id, had[i]) or had[i], to = to, done = done }
    end
  end
  return back, #all
end

local function release(field, claim)
  local lane, _, scores, ids = string.match(claim, '^([^|]*)|([^|]*)|([^|]*)|(.*)$')
  local stage = stage_of(lane)
  local back, size = going_back(stage, lane, scores, ids)
  local charged = charge ~= 'none' and (running == '' or running == field)
  local lanes, attempts = {}, { 'HSET', P .. 'attempts' }
  for _, each in ipairs(back) do
    lanes[each.to] = lanes[each.to] or { 'ZADD', P .. 'q:' .. each.to }
    table.insert(lanes[each.to], each.score)
    table.insert(lanes[each.to], each.id)
  end
  if #back > 0 then
    local known = {}
    for i, each in ipairs(back) do
      known[i] = each.id
    end
    for i, before in ipairs(redis.call('HMGET', P .. 'attempts', unpack(known))) do
      attempts[#attempts + 1] = known[i]
      -- Written even if nothing is charged: what has been claimed once is not seen as queued again.
      attempts[#attempts + 1] = charged and charged_to(before, stage) or cjson.encode(attempts_of(before))
    end
  end
  for _, waiting in pairs(lanes) do
    redis.call(unpack(waiting))
  end
  if #back > 0 then redis.call(unpack(attempts)) end
  if stage == 'scoring' then
    for _, each in ipairs(back) do
      if not each.done then restore_deadline(each.id, each.score) end
    end
  end
  redis.call('HDEL', P .. 'c:' .. incarnation, field)
  audit('what', 'released', 'incarnation', incarnation, 'field', field, 'charge', charged and charge or 'none')
  count(stage .. ':released', size)
  if charged then count('failed:' .. stage .. ':' .. category, size) end
  for to in pairs(lanes) do
    best_effort('ZADD', P .. 'lanes', 'NX', int(now), to)
    ring(to, now)
  end
  return #back
end

local released = 0
local fields = redis.call('HGETALL', P .. 'c:' .. incarnation)
for f = 1, #fields, 2 do
  local field, claim = fields[f], fields[f + 1]
  local claimed_ms = tonumber(string.match(claim, '^%l+[^|]*/[^|]*|(%d+)|[^|]+|') or '')
  if sub(field, 1, #prefix) == prefix then
    if not claimed_ms then
      redis.call('HDEL', P .. 'c:' .. incarnation, field) -- it cannot be read; the sweeper recovers its requests
    elseif now - claimed_ms >= older_ms then
      if released >= SCRIPT_LIMIT then return { released, 1 } end
      released = released + release(field, claim)
    end
  end
end
return { released, 0 }
