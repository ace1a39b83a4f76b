#!lua flags=no-writes
-- How unfinished requests stand. ARGV: four for each: id, flight, scoring lane, its score in waiting sets.
-- Returns, for each: its record, its flight's latest output and attempts (each false if there is none), how many wait before
-- it at the stage where it waits (-1: it waits at none), and in how many ms it is done, about (-1: not known, as for what
-- waits to be tried again, or for a stage without a worker).
local reply = {}

-- The three lanes of a request, what they do per second, and how long they usually work (each 0 if not known).
local known = {}
local function lanes_of(scoring)
  if not known[scoring] then
    local version = string.match(scoring, '/.*$')
    local lanes = { 'preprocess' .. version, scoring, 'postprocess' .. version }
    known[scoring] = {
      names = lanes,
      paces = redis.call('HMGET', P .. 'paces', unpack(lanes)),
      work = redis.call('HMGET', P .. 'medians', unpack(lanes)),
    }
  end
  return known[scoring]
end

-- Where it waits: the stage's number and its rank there, or nil.
local function place_of(lanes, flight, first)
  for stage = first, 3 do
    local rank = redis.call('ZRANK', P .. 'q:' .. lanes[stage], flight)
    if rank then return stage, rank end
  end
end

for i = 1, #ARGV, 4 do
  local id, flight, lanes, score = ARGV[i], ARGV[i + 1], lanes_of(ARGV[i + 2]), ARGV[i + 3]
  local output = redis.call('GET', P .. 'o:' .. flight)
  -- The first stage that has not done it yet: an output says which stage made it.
  local first = 1
  if output then
    local kind = payload_at(output) + 2 -- msgpack: an array of three, then a short text
    first = string.sub(output, kind, kind + 9) == 'preprocess' and 2 or 3
  end
  local stage, rank = place_of(lanes.names, flight, first)
  local attempts = redis.call('HGET', P .. 'attempts', flight)
  local ahead, longest, work, measured = rank or 0, 0, 0, rank or not attempts
  if rank then score = redis.call('ZSCORE', P .. 'q:' .. lanes.names[stage], flight) end
  for n = stage or first, 3 do
    if n > (stage or first) then
      ahead = ahead + redis.call('ZCOUNT', P .. 'q:' .. lanes.names[n], '-inf', '(' .. score)
    end
    local pace = tonumber(lanes.paces[n] or '0')
    if pace > 0 and (rank or n > first) then longest = math.max(longest, 1000 * ahead / pace) end
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
