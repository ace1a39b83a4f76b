#!lua flags=allow-oom
-- Ends requests that no worker ends: those past their deadline, and cancelled ones.
-- Returns for each: 1 ended now, 0 not (it had ended before, or scoring has claimed it).
-- A member of a flight leaves it once its end is written: the others' computation goes on meanwhile.
local result_ttl = ARGV[1] -- ms
local idempotency_ttl = ARGV[2] -- ms
local state = ARGV[3] -- in which they end
local late_only = ARGV[4] == '1' -- ends only those past their deadline
local FIRST, STEP = 5, 4 -- then for each request: id, its preprocess lane, its scoring lane, its record as ended

local now = now_ms()
local reply, ids, ends = {}, {}, {}
local leaving, left = {}, {} -- members: {flight, id, scoring lane}; how many a flight has left
local flights, records, waiting = {}, {}, {} -- of flights that are over: ids, records, and where they may wait

for i = FIRST, #ARGV, STEP do
  local id, preprocess, scoring, record = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local deadline = tonumber(redis.call('ZSCORE', P .. 'open', id) or '+inf')
  local endable = deadline ~= math.huge and (not late_only or deadline <= now)
  local flight = flight_of(record) or id
  local claimed = endable and redis.call('HGET', P .. 'joined', flight)
  local over = endable and not claimed and id == flight
  local own = claimed and redis.call('ZSCORE', P .. 'm:' .. flight, id)
  if own then
    -- It is one of several. When scoring claims their flight, nothing in `open` says so for each: decide it here.
    endable = claimed == '0' or (late_only and own % PRIORITY_STEP <= tonumber(claimed))
    if endable then
      left[flight] = (left[flight] or redis.call('ZCARD', P .. 'm:' .. flight)) - 1
      over = left[flight] == 0
      leaving[#leaving + 1] = { flight, id, scoring }
      local input = id == flight and not over and redis.call('GET', P .. 'r:' .. id)
      if input and not end_of(input) then redis.call('SET', P .. 'i:' .. flight, input) end
    elseif late_only then
      redis.call('ZADD', P .. 'open', int(now + LATE_MEMBER_AGAIN_MS), id) -- a retry may make it wait again
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
commit_ends(
  ids,
  ends,
  state,
  result_ttl,
  idempotency_ttl,
  nil,
  function() close_flights(flights, records, now, nil) end
)
for _, member in ipairs(leaving) do
  local flight, id, scoring = unpack(member)
  redis.call('ZREM', P .. 'm:' .. flight, id)
  if left[flight] == 0 then
    forget_joined(flight)
  else
    reposition(flight, scoring)
  end
end
for _, entry in ipairs(waiting) do
  redis.call('ZREM', unpack(entry))
end
return reply
