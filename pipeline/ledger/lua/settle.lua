#!lua flags=allow-oom
-- Settle a batch, ring the next stage, and claim the lane's next batch: one round trip, no moment in between.
-- ARGV: 1 incarnation, 2 field, 3 lane, 4 next lane ('' after the last stage), 5 result_ttl ms,
--       6 dead_max_age ms, 7 dead_max_count, 8 next field, 9 limit (0: claim no more),
--       10 number of forwards, 11 of ends, 12 of retries, 13 of letters, 14 rows the model ran,
--       15 entry with which the worker lingers if nothing is left (see join), 16 idempotency_ttl ms, then
--       forwards (id, score, output), ends (id, state, record, idempotency key and body digest or ''),
--       retries (id, score, delay ms, attempts JSON), letters (id, letter).
-- Returns {'lost'} if the claim is gone (the fence: another has this batch), {'empty'}, {'joined'} (it lingers now), or
-- {'batch', ...} as claim.
local incarnation, field, lane, next_lane = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- The fence: the claim is there, or this batch was released and is no longer ours to settle.
if redis.call('HDEL', P .. 'c:' .. incarnation, field) == 0 then return { 'lost' } end
local now = now_ms()
local stage = string.match(lane, '^%l+')
local forwards, ended, retries, letters =
  tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local at = 17
local committed = {}

if forwards > 0 then
  local ids = {}
  for i = 0, forwards - 1 do ids[i + 1] = ARGV[at + 3 * i] end
  local opens = open_scores(ids)
  local outputs, waiting = { 'MSET' }, { 'ZADD', P .. 'q:' .. next_lane }
  for i, id in ipairs(ids) do
    if opens[i] then -- not cancelled or expired while the stage worked
      outputs[#outputs + 1] = P .. 'o:' .. id
      outputs[#outputs + 1] = ARGV[at + 3 * i - 1]
      waiting[#waiting + 1] = ARGV[at + 3 * i - 2]
      waiting[#waiting + 1] = id
    end
  end
  if #outputs > 1 then
    redis.call(unpack(outputs))
    redis.call(unpack(waiting))
    redis.call('ZADD', P .. 'lanes', 'NX', int(now), next_lane)
    ring(next_lane, now)
  end
  at = at + 3 * forwards
end

if ended > 0 then
  local ids = {}
  for i = 0, ended - 1 do ids[i + 1] = ARGV[at + 4 * i] end
  local opens = open_scores(ids)
  local live, ends, held, states = {}, {}, {}, {}
  for i, id in ipairs(ids) do
    if opens[i] then
      live[#live + 1] = id
      committed[id] = true
      ends[#ends + 1] = ARGV[at + 4 * i - 2]
      held[#held + 1] = ARGV[at + 4 * i - 1]
      local state = ARGV[at + 4 * i - 3]
      states[state] = (states[state] or 0) + 1
    end
  end
  commit_ends(live, ends, held, ARGV[5], ARGV[16])
  for state, n in pairs(states) do count(state, n) end
  at = at + 4 * ended
end

for _ = 1, retries do -- failures only: a call for each is no cost on the good path
  local id, score, delay, attempts = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if redis.call('ZSCORE', P .. 'open', id) then
    redis.call('HSET', P .. 'attempts', id, attempts)
    redis.call('ZADD', P .. 'later', int(now + delay), id .. ' ' .. score .. ' ' .. lane)
    if stage ~= 'postprocess' then
      -- It waits again: its deadline counts again.
      redis.call('ZADD', P .. 'open', 'XX', int(score % 8796093022208), id)
    end
  end
  at = at + 4
end

for _ = 1, letters do
  if committed[ARGV[at]] then -- else it has ended otherwise meanwhile, and must not be replayed
    redis.call('SET', P .. 'd:' .. ARGV[at], ARGV[at + 1], 'PX', ARGV[6])
    redis.call('ZADD', P .. 'dead', int(now), ARGV[at])
  end
  at = at + 2
end
if letters > 0 then trim_letters(now - ARGV[6], tonumber(ARGV[7])) end

count(stage .. ':settled', forwards + ended + retries)
count(stage .. ':retried', retries)
count('runs:' .. string.match(lane, '/([^#]+)'), tonumber(ARGV[14]))

local limit = tonumber(ARGV[9])
if limit == 0 or fenced(incarnation) then
  if redis.call('ZCARD', P .. 'q:' .. lane) > 0 then ring(lane, now) end
  return { 'empty' }
end
local batch = take(incarnation, ARGV[8], lane, limit, now)
if not batch then return { join(ARGV[15]) == 'joined' and 'joined' or 'empty' } end
return { 'batch', unpack(batch) }
