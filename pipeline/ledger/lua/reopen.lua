#!lua flags=allow-oom
-- Brings back flights that are nowhere (in no lane, in no claim, not among the retries) and requests that are not open.
-- They wait again, for the stage after the one whose output is there. A member of a flight that is over gets its answer
-- if there is one; else its record is removed: it is not open, so no client was told that it was accepted.
-- Returns how many wait again. If one was somewhere all the same, it does no harm that it is there twice.
local result_ttl = ARGV[1] -- ms
local idempotency_ttl = ARGV[2] -- ms
-- Then for each request: id, flight, scoring lane, its score in waiting sets, its deadline (ms).
local FIRST, STEP = 3, 5

local now, reopened = now_ms(), 0

for i = FIRST, #ARGV, STEP do
  local id, flight, scoring, score, deadline = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local record, joined = redis.call('GET', P .. 'r:' .. id), is_joined(flight)
  local live = record and not end_of(record)
  if live and id ~= flight and not joined then
    local first = redis.call('GET', P .. 'r:' .. flight)
    local ended = end_of(first)
    if first and not ended then
      -- Its first member may not be open either: then its input is taken from the copy.
      if not redis.call('ZSCORE', P .. 'open', flight) then redis.call('SET', P .. 'i:' .. flight, first) end
      redis.call('ZADD', P .. 'm:' .. flight, score, flight)
      redis.call('HSET', P .. 'joined', flight, '0')
      joined = true
    else
      live = false
      if ended == 'succeeded' then
        commit_ends({ id }, { with_payload_of(record, first) }, ended, result_ttl, idempotency_ttl)
      elseif not redis.call('ZSCORE', P .. 'open', id) then
        redis.call('DEL', P .. 'r:' .. id)
      end
    end
  end
  if (live or (id == flight and joined)) and redis.call('HEXISTS', P .. 'fanout', flight) == 0 then
    local output = redis.call('GET', P .. 'o:' .. flight)
    local preprocess, _, postprocess = lanes_of(scoring)
    local lane = not output and preprocess or kind_of(output) == PREPROCESS and scoring or postprocess
    if live and joined then redis.call('ZADD', P .. 'm:' .. flight, score, id) end
    redis.call('ZADD', P .. 'q:' .. lane, waiting_score(flight, score) or score, flight)
    if live and redis.call('ZADD', P .. 'open', 'NX', deadline, id) == 1 then count_for_tenants({ record }, 1) end
    if lane ~= postprocess then restore_deadline(flight, score) end
    best_effort('ZADD', P .. 'lanes', 'NX', int(now), lane)
    ring(lane, now)
    reopened = reopened + 1
  end
end
return reopened
