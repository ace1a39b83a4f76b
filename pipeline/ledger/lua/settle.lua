#!lua flags=allow-oom
-- Settles a batch, rings the next stage, and claims the lane's next batch: one round trip, no moment in between.
-- Returns {'lost'} if the claim is gone (the fence: another worker has this batch), else 'empty', 'parked' (the worker
-- is now) or 'batch', then joined flights that have ended (fan their outcomes out), then the batch as claim returns it.
-- The claim goes last: if the script is stopped before that, the batch is released, and repeated as far as its outcomes
-- are not written. Ends and outputs come first, then where each request waits next, all by the same command.
local incarnation = ARGV[1]
local field = ARGV[2] -- of its claims: the batch to settle
local lane = ARGV[3]
local next_lane = ARGV[4] -- '' after the last stage
local result_ttl = ARGV[5] -- ms
local dead_max_age = ARGV[6] -- ms
local dead_max_count = tonumber(ARGV[7])
local next_field = ARGV[8] -- of its claims, for the next batch
local limit = tonumber(ARGV[9]) -- requests of the next batch (0: claims no more)
local forwards = tonumber(ARGV[10]) -- how many requests go to the next stage
local ended = tonumber(ARGV[11]) -- how many end
local retries = tonumber(ARGV[12]) -- how many are tried again
local letters = tonumber(ARGV[13]) -- how many dead letters there are
local counts = ARGV[14] -- what to count besides: `NAME ROWS ...`
local waiter = ARGV[15] -- the entry with which the worker parks if nothing is left (see park; '': it has another batch)
local idempotency_ttl = ARGV[16] -- ms
local reusable_ms = tonumber(ARGV[17]) -- for which results may be given again
local cache_max_bytes = tonumber(ARGV[18])
local worked_ms = ARGV[19] -- by the stage
-- Then forwards (id, score, output), ends (id, state, record), retries (id, score, delay in ms, attempts as JSON,
-- 'free' if no attempt was used up: such a retry is not on its lane's budget), and dead letters (id, letter).
local FORWARD_STEP, END_STEP, RETRY_STEP, LETTER_STEP = 3, 3, 5, 2
local forwards_at = 20
local ends_at = forwards_at + FORWARD_STEP * forwards
local retries_at = ends_at + END_STEP * ended
local letters_at = retries_at + RETRY_STEP * retries

local claims = P .. 'c:' .. incarnation
-- The fence: the claim is there, or this batch was released and is no longer ours to settle.
if redis.call('HEXISTS', claims, field) == 0 then return { 'lost' } end
local now = now_ms()
local stage = stage_of(lane)
local to_fan_out, letter_of = {}, {}
for at = letters_at, letters_at + LETTER_STEP * (letters - 1), LETTER_STEP do
  letter_of[ARGV[at]] = ARGV[at + 1]
end

-- The ids of one kind of outcome, which of them are still wanted, and which are joined flights (as wanted_of returns
-- them).
local function wanted_among(first, step, n)
  local ids = {}
  for i = 0, n - 1 do
    ids[i + 1] = ARGV[first + step * i]
  end
  local wanted, _, joined = wanted_of(ids)
  return ids, wanted, joined
end

-- Writes the dead letters of those that end now: one that had ended otherwise before must not be replayed.
local function write_dead_letters(ids, had_ended)
  for _, id in ipairs(ids) do
    local letter = not had_ended[id] and letter_of[id]
    if letter then
      set_with_ttl({ 'MSETEX', 1, P .. 'd:' .. id, letter }, dead_max_age)
      redis.call('ZADD', P .. 'dead', int(now), id)
    end
  end
end

-- Forwards: the outputs. Where one is there already (an earlier settle was stopped, or another worker has come further
-- meanwhile), it is kept.
local waiting, forwarded = { 'ZADD', P .. 'q:' .. next_lane }, 0
if forwards > 0 then
  local ids, wanted, joined = wanted_among(forwards_at, FORWARD_STEP, forwards)
  local keys, there = keys_of('o:', ids), {}
  if stage == 'preprocess' and redis.call('EXISTS', unpack(keys)) > 0 then there = redis.call('MGET', unpack(keys)) end
  local outputs, n = { 'MSET' }, 1
  for i, id in ipairs(ids) do
    if wanted[i] then -- not cancelled or expired while the stage worked
      local at = forwards_at + FORWARD_STEP * (i - 1)
      if not there[i] then
        outputs[n + 1], outputs[n + 2] = keys[i], ARGV[at + 2]
        n = n + 2
      end
      waiting[2 * forwarded + 3], waiting[2 * forwarded + 4] = joined and joined[i] and urgency(id) or ARGV[at + 1], id
      forwarded = forwarded + 1
    end
  end
  if n > 1 then redis.call(unpack(outputs)) end
end

-- Retries: their attempts. When each is due follows below.
local later = { 'ZADD', P .. 'later' }
if retries > 0 then
  local ids, wanted = wanted_among(retries_at, RETRY_STEP, retries)
  local attempts = { 'HSET', P .. 'attempts' }
  for i, id in ipairs(ids) do
    if wanted[i] then
      local at = retries_at + RETRY_STEP * (i - 1)
      local score, delay, known, free = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
      attempts[#attempts + 1] = id
      attempts[#attempts + 1] = known
      later[#later + 1] = int(now + delay)
      later[#later + 1] = id .. ' ' .. score .. ' ' .. lane .. ' ' .. free
      if stage ~= 'postprocess' then restore_deadline(id, score) end -- it waits again: its deadline counts again
    end
  end
  if #attempts > 2 then redis.call(unpack(attempts)) end
end

-- Ends.
if ended > 0 then
  local ids, wanted, joined = wanted_among(ends_at, END_STEP, ended)
  local by_state = {}
  for i, id in ipairs(ids) do
    if wanted[i] then
      local at = ends_at + END_STEP * (i - 1)
      local state, record = ARGV[at + 1], ARGV[at + 2]
      if joined and joined[i] then
        -- Its members get the outcome in scripts of their own; from here on none leaves it.
        write_dead_letters({ id }, {})
        redis.call('SET', P .. 'e:' .. id, record)
        if joined[i] == '0' then redis.call('HSET', P .. 'joined', id, int(now)) end
        redis.call('HSET', P .. 'fanout', id, state .. ' ' .. int(reusable_ms))
        to_fan_out[#to_fan_out + 1] = id
      else
        local of_state = by_state[state] or { ids = {}, ends = {} }
        by_state[state] = of_state
        local n = #of_state.ids + 1
        of_state.ids[n], of_state.ends[n] = id, record
      end
    end
  end
  local cache = { reusable_ms, cache_max_bytes }
  for state, of_state in pairs(by_state) do
    commit_ends(
      of_state.ids,
      of_state.ends,
      state,
      result_ttl,
      idempotency_ttl,
      function(had_ended) write_dead_letters(of_state.ids, had_ended) end,
      function() close_flights(of_state.ids, of_state.ends, now, state == 'succeeded' and cache or nil) end
    )
  end
end

if forwarded > 0 then redis.call(unpack(waiting)) end
if #later > 2 then redis.call(unpack(later)) end
redis.call('HDEL', claims, field)

audit('what', 'settled', 'incarnation', incarnation, 'field', field)
if forwarded > 0 then
  best_effort('ZADD', P .. 'lanes', 'NX', int(now), next_lane)
  ring(next_lane, now)
end
if letters > 0 then pcall(trim_dead_letters, now - dead_max_age, dead_max_count) end
best_effort('HINCRBY', P .. 'settled', lane, forwards + ended + retries)
best_effort('HSET', P .. 'work', lane, worked_ms)
count(stage .. ':retried', retries)
for name, rows in string.gmatch(counts, '(%S+) (%d+)') do
  count(name, tonumber(rows))
end

-- Members first: what this worker would claim now would wait for them.
if limit == 0 or #to_fan_out > 0 or fenced(incarnation) then
  if redis.call('ZCARD', P .. 'q:' .. lane) > 0 then ring(lane, now) end
  return { 'empty', to_fan_out }
end
local batch = take(incarnation, next_field, lane, limit, now)
if not batch then return { waiter ~= '' and park(waiter) == 'parked' and 'parked' or 'empty', to_fan_out } end
return { 'batch', to_fan_out, unpack(batch) }
