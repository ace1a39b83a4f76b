#!lua flags=allow-oom
-- End requests from outside a worker: deadlines that passed, and cancelling.
-- ARGV: result_ttl ms, idempotency_ttl ms, state, '1' to end only those past their deadline, then four for each request:
--       id, its preprocess lane, its scoring lane, its record as ended.
-- Returns, for each: 1 ended now, 0 not (ended before, or scoring has claimed it).
local now = now_ms()
local reply, ids, ends, flights, records = {}, {}, {}, {}, {}

-- A member of a flight goes; the others' computation goes on.
local function leave(id, flight, scoring)
  if id == flight then redis.call('SET', P .. 'i:' .. flight, redis.call('GET', P .. 'r:' .. id)) end
  redis.call('ZREM', P .. 'm:' .. flight, id)
  if redis.call('ZCARD', P .. 'm:' .. flight) == 0 then
    forget_joined(flight)
    return true
  end
  reposition(flight, scoring)
end

for i = 5, #ARGV, 4 do
  local id, preprocess, scoring, record = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local late_only = ARGV[4] == '1'
  local look_at = tonumber(redis.call('ZSCORE', P .. 'open', id) or '+inf')
  local endable = look_at ~= math.huge and (not late_only or look_at <= now)
  local flight = flight_of(record) or id
  local over = endable
  local own = endable and redis.call('ZSCORE', P .. 'm:' .. flight, id)
  if own then
    -- It is one of several. Scoring claims their flight without a word in `open` about each: look at it here.
    local claimed, deadline = redis.call('HGET', P .. 'joined', flight), own % BAND
    endable = claimed == '0' or (late_only and deadline <= tonumber(claimed))
    over = endable and leave(id, flight, scoring)
    if not endable and late_only then
      redis.call('ZADD', P .. 'open', int(now + 1000), id) -- look again then: a retry may make it wait again
    end
  end
  reply[#reply + 1] = endable and 1 or 0
  if endable then
    ids[#ids + 1] = id
    ends[#ends + 1] = record
  end
  if over then
    redis.call('ZREM', P .. 'q:' .. preprocess, flight)
    redis.call('ZREM', P .. 'q:' .. scoring, flight)
    flights[#flights + 1] = flight
    records[#records + 1] = record
  end
end
commit_ends(ids, ends, ARGV[3], ARGV[1], ARGV[2])
close_flights(flights, records, now, nil)
return reply
