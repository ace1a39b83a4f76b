#!lua flags=allow-oom
-- Settle a batch, ring the next stage, and claim the lane's next batch: one round trip, no moment in between.
-- ARGV: 1 incarnation, 2 field, 3 lane, 4 next lane ('' after the last stage), 5 result_ttl ms,
--       6 dead_max_age ms, 7 dead_max_count, 8 next field, 9 limit (0: claim no more),
--       10 number of forwards, 11 of ends, 12 of retries, 13 of letters, 14 what to count (`NAME ROWS ...`),
--       15 entry with which the worker parks if nothing is left (see join; '': it has another batch), 16 idempotency_ttl ms,
--       17 how long results may be given again (ms), 18 what the cache may take (bytes), 19 ms that the stage worked, then
--       forwards (id, score, output), ends (id, state, record), retries (id, score, delay ms, attempts JSON, 'free' if no
--       attempt was used up: such a retry is not on its lane's budget),
--       letters (id, letter).
-- Returns {'lost'} if the claim is gone (the fence: another has this batch), else 'empty', 'parked' (its worker does now)
-- or 'batch', then joined flights that have ended (fan their outcomes out), then the batch as claim.
-- The claim goes last: what is stopped before that is released, and done again as far as it is not there. Ends and outputs
-- come first, then where each request waits next, all by the same command.
local incarnation, field, lane, next_lane = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local claims = P .. 'c:' .. incarnation
-- The fence: the claim is there, or this batch was released and is no longer ours to settle.
if redis.call('HEXISTS', claims, field) == 0 then return { 'lost' } end
local now = now_ms()
local stage = string.match(lane, '^%l+')
local forwards, ended, retries, letters =
  tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local forwards_at, ends_at = 20, 20 + 3 * forwards
local retries_at = ends_at + 3 * ended
local letters_at = retries_at + 5 * retries
local cache = { tonumber(ARGV[17]), tonumber(ARGV[18]) }
local to_fan, letter_of = {}, {}
for at = letters_at, letters_at + 2 * letters - 2, 2 do letter_of[ARGV[at]] = ARGV[at + 1] end

-- Which of these requests anybody waits for, and which are joined flights (as wanted_of).
local function look_at(first, step, n)
  local ids = {}
  for i = 0, n - 1 do ids[i + 1] = ARGV[first + step * i] end
  local wanted, _, joined = wanted_of(ids)
  return ids, wanted, joined
end

-- Dead letters of those that end now: one that has ended otherwise meanwhile must not be replayed.
local function write_letters(ids, had_ended)
  for _, id in ipairs(ids) do
    local letter = not had_ended[id] and letter_of[id]
    if letter then
      set_with_life({ 'MSETEX', 1, P .. 'd:' .. id, letter }, ARGV[6])
      redis.call('ZADD', P .. 'dead', int(now), id)
    end
  end
end

-- Forwards: the outputs. Where one is there already, an earlier settle was stopped, or another worker has come further
-- meanwhile: it stands.
local waiting, forwarded = { 'ZADD', P .. 'q:' .. next_lane }, 0
if forwards > 0 then
  local ids, wanted, joined = look_at(forwards_at, 3, forwards)
  local keys, there = keys_of('o:', ids), {}
  if stage == 'preprocess' and redis.call('EXISTS', unpack(keys)) > 0 then there = redis.call('MGET', unpack(keys)) end
  local outputs, n = { 'MSET' }, 1
  for i, id in ipairs(ids) do
    if wanted[i] then -- not cancelled or expired while the stage worked
      local at = forwards_at + 3 * i - 3
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
  local ids, wanted = look_at(retries_at, 5, retries)
  local attempts = { 'HSET', P .. 'attempts' }
  for i, id in ipairs(ids) do
    if wanted[i] then
      local _, score, delay, known, free = unpack(ARGV, retries_at + 5 * i - 5, retries_at + 5 * i - 1)
      attempts[#attempts + 1] = id
      attempts[#attempts + 1] = known
      later[#later + 1] = int(now + delay)
      later[#later + 1] = id .. ' ' .. score .. ' ' .. lane .. ' ' .. free
      if stage ~= 'postprocess' then uncommit(id, score) end -- it waits again: its deadline counts again
    end
  end
  if #attempts > 2 then redis.call(unpack(attempts)) end
end

-- Ends.
if ended > 0 then
  local ids, wanted, joined = look_at(ends_at, 3, ended)
  local by_state = {}
  for i, id in ipairs(ids) do
    if wanted[i] then
      local state, record = ARGV[ends_at + 3 * i - 2], ARGV[ends_at + 3 * i - 1]
      if joined and joined[i] then
        -- Its members get it in scripts of their own; from here on none leaves it.
        write_letters({ id }, {})
        redis.call('SET', P .. 'e:' .. id, record)
        if joined[i] == '0' then redis.call('HSET', P .. 'joined', id, int(now)) end
        redis.call('HSET', P .. 'fanout', id, state .. ' ' .. ARGV[17])
        to_fan[#to_fan + 1] = id
      else
        local of_state = by_state[state] or { ids = {}, ends = {} }
        by_state[state] = of_state
        local n = #of_state.ids + 1
        of_state.ids[n], of_state.ends[n] = id, record
      end
    end
  end
  for state, of_state in pairs(by_state) do
    commit_ends(of_state.ids, of_state.ends, state, ARGV[5], ARGV[16], function(had_ended)
      write_letters(of_state.ids, had_ended)
    end, function()
      close_flights(of_state.ids, of_state.ends, now, state == 'succeeded' and cache or nil)
    end)
  end
end

if forwarded > 0 then redis.call(unpack(waiting)) end
if #later > 2 then redis.call(unpack(later)) end
redis.call('HDEL', claims, field)

audit('what', 'settled', 'incarnation', incarnation, 'field', field)
if forwarded > 0 then
  tell('ZADD', P .. 'lanes', 'NX', int(now), next_lane)
  ring(next_lane, now)
end
if letters > 0 then pcall(trim_letters, now - ARGV[6], tonumber(ARGV[7])) end
tell('HINCRBY', P .. 'settled', lane, forwards + ended + retries)
tell('HSET', P .. 'work', lane, ARGV[19])
count(stage .. ':retried', retries)
for name, rows in string.gmatch(ARGV[14], '(%S+) (%d+)') do count(name, tonumber(rows)) end

-- Members first: what this worker would claim or be handed now would wait for them.
local limit = tonumber(ARGV[9])
if limit == 0 or #to_fan > 0 or fenced(incarnation) then
  if redis.call('ZCARD', P .. 'q:' .. lane) > 0 then ring(lane, now) end
  return { 'empty', to_fan }
end
local batch = take(incarnation, ARGV[8], lane, limit, now)
if not batch then return { ARGV[15] ~= '' and join(ARGV[15]) == 'parked' and 'parked' or 'empty', to_fan } end
return { 'batch', to_fan, unpack(batch) }
