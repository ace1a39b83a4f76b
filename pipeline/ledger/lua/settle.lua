#!lua flags=allow-oom
-- Settle a batch, ring the next stage, and claim the lane's next batch: one round trip, no moment in between.
-- ARGV: 1 incarnation, 2 field, 3 lane, 4 next lane ('' after the last stage), 5 result_ttl ms,
--       6 dead_max_age ms, 7 dead_max_count, 8 next field, 9 limit (0: claim no more),
--       10 number of forwards, 11 of ends, 12 of retries, 13 of letters, 14 what to count (`NAME ROWS ...`),
--       15 entry with which the worker lingers if nothing is left (see join; '': it has another batch), 16 idempotency_ttl ms,
--       17 how long results may be given again (ms), 18 what the cache may take (bytes), 19 ms that the stage worked, then
--       forwards (id, score, output), ends (id, state, record), retries (id, score, delay ms, attempts JSON, 'free' if no
--       attempt was used up: such a retry is not on its lane's budget),
--       letters (id, letter).
-- Returns {'lost'} if the claim is gone (the fence: another has this batch), else 'empty', 'lingers' (its worker does now)
-- or 'batch', then joined flights that have ended (fan their outcomes out), then the batch as claim.
local incarnation, field, lane, next_lane = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- The fence: the claim is there, or this batch was released and is no longer ours to settle.
if redis.call('HDEL', P .. 'c:' .. incarnation, field) == 0 then return { 'lost' } end
local now = now_ms()
audit('what', 'settled', 'incarnation', incarnation, 'field', field)
local stage = string.match(lane, '^%l+')
local forwards, ended, retries, letters =
  tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local at = 20
local committed, to_fan = {}, {}

if forwards > 0 then
  local ids = {}
  for i = 0, forwards - 1 do ids[i + 1] = ARGV[at + 3 * i] end
  local wanted, _, joined = wanted_of(ids)
  local outputs, waiting, n = { 'MSET' }, { 'ZADD', P .. 'q:' .. next_lane }, 0
  for i, id in ipairs(ids) do
    if wanted[i] then -- not cancelled or expired while the stage worked
      outputs[n + 2], outputs[n + 3] = P .. 'o:' .. id, ARGV[at + 3 * i - 1]
      waiting[n + 3], waiting[n + 4] = joined and joined[i] and urgency(id) or ARGV[at + 3 * i - 2], id
      n = n + 2
    end
  end
  if n > 0 then
    redis.call(unpack(outputs))
    redis.call(unpack(waiting))
    redis.call('ZADD', P .. 'lanes', 'NX', int(now), next_lane)
    ring(next_lane, now)
  end
  at = at + 3 * forwards
end

if ended > 0 then
  local ids = {}
  for i = 0, ended - 1 do ids[i + 1] = ARGV[at + 3 * i] end
  local wanted, _, joined = wanted_of(ids)
  local by_state = {}
  for i, id in ipairs(ids) do
    if wanted[i] then
      committed[id] = true
      local state, record = ARGV[at + 3 * i - 2], ARGV[at + 3 * i - 1]
      if joined and joined[i] then
        -- Its members get it in scripts of their own; from here on none leaves it.
        redis.call('SET', P .. 'e:' .. id, record)
        redis.call('HSET', P .. 'fanout', id, state .. ' ' .. ARGV[17])
        if joined[i] == '0' then redis.call('HSET', P .. 'joined', id, int(now)) end
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
    commit_ends(of_state.ids, of_state.ends, state, ARGV[5], ARGV[16])
    close_flights(of_state.ids, of_state.ends, now, state == 'succeeded' and { tonumber(ARGV[17]), tonumber(ARGV[18]) } or nil)
  end
  at = at + 3 * ended
end

for _ = 1, retries do -- failures only: a call for each is no cost on the good path
  local id, score, delay, attempts, free = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  if wanted_of({ id })[1] then
    redis.call('HSET', P .. 'attempts', id, attempts)
    redis.call('ZADD', P .. 'later', int(now + delay), id .. ' ' .. score .. ' ' .. lane .. ' ' .. free)
    if stage ~= 'postprocess' then uncommit(id, score) end -- it waits again: its deadline counts again
  end
  at = at + 5
end

for _ = 1, letters do
  if committed[ARGV[at]] then -- else it has ended otherwise meanwhile, and must not be replayed
    redis.call('SET', P .. 'd:' .. ARGV[at], ARGV[at + 1], 'PX', ARGV[6])
    redis.call('ZADD', P .. 'dead', int(now), ARGV[at])
  end
  at = at + 2
end
if letters > 0 then trim_letters(now - ARGV[6], tonumber(ARGV[7])) end

redis.call('HINCRBY', P .. 'settled', lane, forwards + ended + retries)
redis.call('HSET', P .. 'work', lane, ARGV[19])
count(stage .. ':retried', retries)
for name, rows in string.gmatch(ARGV[14], '(%S+) (%d+)') do count(name, tonumber(rows)) end

-- Members first: what this worker would claim or be handed now would wait for them.
local limit = tonumber(ARGV[9])
if limit == 0 or #to_fan > 0 or fenced(incarnation) then
  if redis.call('ZCARD', P .. 'q:' .. lane) > 0 then ring(lane, now) end
  return { 'empty', to_fan }
end
local batch = take(incarnation, ARGV[8], lane, limit, now)
if not batch then return { ARGV[15] ~= '' and join(ARGV[15]) == 'lingers' and 'lingers' or 'empty', to_fan } end
return { 'batch', to_fan, unpack(batch) }
