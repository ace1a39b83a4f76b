#!lua flags=allow-oom
-- End requests from outside a worker: deadlines that passed, and cancelling.
-- ARGV: result_ttl ms, idempotency_ttl ms, state, '1' to end only those past their deadline, then four for each request:
--       id, its preprocess lane, its scoring lane, its record as ended.
-- Returns, for each: 1 ended now, 0 not (ended before, or scoring has claimed it).
-- A member of a flight leaves it once its end stands: the others' computation goes on meanwhile.
local now, late_only = now_ms(), ARGV[4] == '1'
local reply, ids, ends = {}, {}, {}
local leaving, left = {}, {} -- members: {flight, id, scoring lane}; how many a flight has left
local flights, records, waiting = {}, {}, {} -- of flights that are over: ids, records, and where they may wait

for i = 5, #ARGV, 4 do
  local id, preprocess, scoring, record = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local look_at = tonumber(redis.call('ZSCORE', P .. 'open', id) or '+inf')
  local endable = look_at ~= math.huge and (not late_only or look_at <= now)
  local flight = flight_of(record) or id
  local claimed = endable and redis.call('HGET', P .. 'joined', flight)
  local over = endable and not claimed and id == flight
  local own = claimed and redis.call('ZSCORE', P .. 'm:' .. flight, id)
  if own then
    -- It is one of several. Scoring claims their flight without a word in `open` about each: look at it here.
    endable = claimed == '0' or (late_only and own % BAND <= tonumber(claimed))
    if endable then
      left[flight] = (left[flight] or redis.call('ZCARD', P .. 'm:' .. flight)) - 1
      over = left[flight] == 0
      leaving[#leaving + 1] = { flight, id, scoring }
      local input = id == flight and not over and redis.call('GET', P .. 'r:' .. id)
      if input and not end_of(input) then redis.call('SET', P .. 'i:' .. flight, input) end
    elseif late_only then
      redis.call('ZADD', P .. 'open', int(now + 1000), id) -- look again then: a retry may make it wait again
    end
  end
  reply[#reply + 1] = endable and 1 or 0
  if endable then
    ids[#ids + 1] = id
    ends[#ends + 1] = record
  end
  if over then
    flights[#flights + 1] = flight
    records[#records + 1] = record
    waiting[#waiting + 1] = { P .. 'q:' .. preprocess, flight }
    waiting[#waiting + 1] = { P .. 'q:' .. scoring, flight }
  end
end
commit_ends(ids, ends, ARGV[3], ARGV[1], ARGV[2], nil, function() close_flights(flights, records, now, nil) end)
for _, member in ipairs(leaving) do
  local flight, id, scoring = unpack(member)
  redis.call('ZREM', P .. 'm:' .. flight, id)
  if left[flight] == 0 then forget_joined(flight) else reposition(flight, scoring) end
end
for _, place in ipairs(waiting) do redis.call('ZREM', unpack(place)) end
return reply
