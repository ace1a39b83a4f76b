#!lua flags=no-writes
-- Where unfinished requests stand. Returns for each: its record, its flight's latest output and attempts (each false if
-- there is none), how many wait before it at the stage where it waits (-1: it waits at none), and the estimated time to
-- its end in ms (-1: not known, as for what waits for a retry, or for a stage without a worker).
local FIRST, STEP = 1, 4 -- for each request: id, flight, scoring lane, its score in waiting sets

local reply = {}

-- The three lanes of a request, their rates per second, and how long their batches usually work (each 0 if not known).
local known = {}
local function measured_lanes_of(scoring)
  if not known[scoring] then
    local lanes = { lanes_of(scoring) }
    known[scoring] = {
      names = lanes,
      rates = redis.call('HMGET', P .. 'paces', unpack(lanes)),
      work = redis.call('HMGET', P .. 'medians', unpack(lanes)),
    }
  end
  return known[scoring]
end

-- Where it waits: the stage's number and its rank there, or nil.
local function position_of(lanes, flight, first)
  for stage = first, #lanes do
    local rank = redis.call('ZRANK', P .. 'q:' .. lanes[stage], flight)
    if rank then return stage, rank end
  end
end

for i = FIRST, #ARGV, STEP do
  local id, flight, lanes, score = ARGV[i], ARGV[i + 1], measured_lanes_of(ARGV[i + 2]), ARGV[i + 3]
  local output = redis.call('GET', P .. 'o:' .. flight)
  -- The first stage that has not done it yet: an output says which stage made it.
  local first = 1
  if output then first = kind_of(output) == PREPROCESS and 2 or 3 end
  local stage, rank = position_of(lanes.names, flight, first)
  local attempts = redis.call('HGET', P .. 'attempts', flight)
  local ahead, longest, work, measured = rank or 0, 0, 0, rank or not attempts
  if rank then score = redis.call('ZSCORE', P .. 'q:' .. lanes.names[stage], flight) end
  for n = stage or first, #lanes.names do
    if n > (stage or first) then
      ahead = ahead + redis.call('ZCOUNT', P .. 'q:' .. lanes.names[n], '-inf', '(' .. score)
    end
    local rate = tonumber(lanes.rates[n] or '0')
    if rate > 0 and (rank or n > first) then longest = math.max(longest, 1000 * ahead / rate) end
    work = work + tonumber(lanes.work[n] or '0')
    measured = measured and lanes.work[n]
  end
  local n = #reply
  reply[n + 1] = redis.call('GET', P .. 'r:' .. id)
  reply[n + 2] = output
  reply[n + 3] = attempts
  reply[n + 4] = rank or -1
  reply[n + 5] = measured and int(longest + work) or '-1'
end
return reply
