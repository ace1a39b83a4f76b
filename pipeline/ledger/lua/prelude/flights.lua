-- Flights: most are of one request, whose id is also the flight's, and no more is kept of them. Those that others have
-- joined are in `joined`, with their members in `m:`.

-- For each flight: false; or, if it has been joined, '0', or the time since which no member can leave it (ms): scoring
-- has claimed it, or its outcome is written. Returns nil if no flight has been joined.
local function joined_of(ids)
  if redis.call('EXISTS', P .. 'joined') == 0 then return nil end
  return redis.call('HMGET', P .. 'joined', unpack(ids))
end

-- Whether this flight has been joined.
local function is_joined(flight) return redis.call('HEXISTS', P .. 'joined', flight) == 1 end

-- Which flights still have an unfinished request. Returns for each: whether it has, its first member's score in `open`
-- (false if that has ended), and joined_of.
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
local function urgency(flight) return redis.call('ZRANGE', P .. 'm:' .. flight, 0, 0, 'WITHSCORES')[2] end

-- The latest deadline (ms) of the members of a flight that has been joined, whatever their priority.
local function latest_deadline(flight)
  local latest = 0
  for priority = 0, LOWEST_PRIORITY do
    local from, to = int(priority * PRIORITY_STEP), '(' .. int((priority + 1) * PRIORITY_STEP)
    local last = redis.call('ZRANGE', P .. 'm:' .. flight, to, from, 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')
    if last[2] then latest = math.max(latest, last[2] - priority * PRIORITY_STEP) end
  end
  return latest
end

-- The score with which a flight waits again: the one that it had, or its members' if it has been joined.
local function waiting_score(flight, had)
  if is_joined(flight) then return urgency(flight) end
  return had
end

-- Moves a joined flight to its members' most urgent score, if it waits at all. scoring: its scoring lane, which alone
-- names the pool.
local function reposition(flight, scoring)
  local score = urgency(flight)
  if not score then return end
  for _, lane in ipairs({ lanes_of(scoring) }) do
    best_effort('ZADD', P .. 'q:' .. lane, 'XX', score, flight) -- if refused, it waits at its old place
  end
end

-- Lets deadlines count again for a flight that scoring had claimed and that waits again.
local function restore_deadline(flight, score)
  if is_joined(flight) then
    redis.call('HSET', P .. 'joined', flight, '0')
    score = redis.call('ZSCORE', P .. 'm:' .. flight, flight) or score
  end
  redis.call('ZADD', P .. 'open', 'XX', int(score % PRIORITY_STEP), flight)
end

-- Removes what is left of a joined flight when its last member has gone.
local function forget_joined(flight)
  redis.call('HDEL', P .. 'joined', flight)
  redis.call('DEL', P .. 'm:' .. flight, P .. 'i:' .. flight, P .. 'e:' .. flight)
end
