-- Flights: most are of one request, whose id is also the flight's, and no more is kept of them. Those that others have
-- joined stand in `joined` with their members in `m:`.

-- For each flight: false, or if it has been joined '0', or since when nobody can leave it (ms): scoring claimed it, or its
-- outcome stands. nil: none has been joined.
local function joined_of(ids)
  if redis.call('EXISTS', P .. 'joined') == 0 then return nil end
  return redis.call('HMGET', P .. 'joined', unpack(ids))
end

-- Which flights anybody still waits for. Returns for each: whether so, its first member's score in `open` (false if that
-- has ended), and joined_of.
local function wanted_of(ids)
  local opens, joined = redis.call('ZMSCORE', P .. 'open', unpack(ids)), joined_of(ids)
  if not joined then return opens, opens, nil end
  local wanted = {}
  for i, id in ipairs(ids) do
    if joined[i] then
      wanted[i] = redis.call('ZCARD', P .. 'm:' .. id) > 0
    else
      wanted[i] = opens[i]
    end
  end
  return wanted, opens, joined
end

-- The waiting score of a flight that has been joined: that of its most urgent member.
local function urgency(flight)
  return redis.call('ZRANGE', P .. 'm:' .. flight, 0, 0, 'WITHSCORES')[2]
end

-- Until when anybody waits for a flight that has been joined (ms): the latest deadline of its members, whatever their
-- priority.
local function latest_deadline(flight)
  local latest = 0
  for priority = 0, 2 do
    local from, to = int(priority * BAND), '(' .. int((priority + 1) * BAND)
    local last = redis.call('ZRANGE', P .. 'm:' .. flight, to, from, 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')
    if last[2] then latest = math.max(latest, last[2] - priority * BAND) end
  end
  return latest
end

-- The score with which a flight waits (again): as it had, or its members' if it has been joined.
local function waiting_score(flight, had)
  if redis.call('HEXISTS', P .. 'joined', flight) == 1 then return urgency(flight) end
  return had
end

-- Move a joined flight to where its members want it, if it waits at all. scoring: its scoring lane, which alone names the
-- pool.
local function reposition(flight, scoring)
  local score = urgency(flight)
  if not score then return end
  for _, lane in ipairs({ lanes_of(scoring) }) do
    tell('ZADD', P .. 'q:' .. lane, 'XX', score, flight) -- at worst it waits where it stood
  end
end

-- A flight waits again after scoring had claimed it: deadlines count again.
local function uncommit(flight, score)
  if redis.call('HEXISTS', P .. 'joined', flight) == 1 then
    redis.call('HSET', P .. 'joined', flight, '0')
    score = redis.call('ZSCORE', P .. 'm:' .. flight, flight) or score
  end
  redis.call('ZADD', P .. 'open', 'XX', int(score % BAND), flight)
end

-- What is left of a joined flight when its last member is gone.
local function forget_joined(flight)
  redis.call('HDEL', P .. 'joined', flight)
  redis.call('DEL', P .. 'm:' .. flight, P .. 'i:' .. flight, P .. 'e:' .. flight)
end
