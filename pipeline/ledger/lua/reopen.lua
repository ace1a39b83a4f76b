#!lua flags=allow-oom
-- Bring back flights that stand nowhere - in no lane, in no claim, not among the retries - and requests that are not open.
-- They wait again, for the stage after the one whose output is there. A member of a flight that is over has its answer if
-- there is one; else its record goes: it is not open, so nobody was told that it was accepted.
-- ARGV: result_ttl ms, idempotency_ttl ms, then five for each: id, flight, scoring lane, its score in waiting sets, its
--       deadline (ms).
-- Returns how many wait again. One that stands somewhere all the same does no harm by standing twice.
local now, reopened = now_ms(), 0

local function is_joined(flight) return redis.call('HEXISTS', P .. 'joined', flight) == 1 end

for i = 3, #ARGV, 5 do
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
        local answer = sub(record, 1, payload_at(record) - 1) .. sub(first, payload_at(first))
        commit_ends({ id }, { answer }, ended, ARGV[1], ARGV[2])
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
    if live and redis.call('ZADD', P .. 'open', 'NX', deadline, id) == 1 then count_owned({ record }, 1) end
    if lane ~= postprocess then uncommit(flight, score) end
    tell('ZADD', P .. 'lanes', 'NX', int(now), lane)
    ring(lane, now)
    reopened = reopened + 1
  end
end
return reopened
