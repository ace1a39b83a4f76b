#!lua flags=allow-oom
-- Move retries that are due into their lanes and ring them, as far as each lane's retry budget allows: a share of the first
-- attempts of a while. What is beyond it waits until there is room again, in order, with no attempt used up.
-- ARGV: the while in ms, share, retries that are allowed in any case.
-- Returns how many were due, and how many of them were held back.
-- They wait again before they leave `later`.
local now, window, share, least = now_ms(), tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('ZREM', P .. 'later', '') -- none: where that may not be done, none of them should be brought back each round
local due = redis.call('ZRANGE', P .. 'later', '-inf', int(now), 'BYSCORE', 'LIMIT', 0, 128)
local lanes, held_back, room, again_at = {}, 0, {}, {}

-- How many more retries of a lane may go.
local function room_of(lane)
  if not room[lane] then
    local gone = P .. 'again:' .. lane
    tell('ZREMRANGEBYSCORE', gone, '-inf', int(now - window))
    local firsts = tonumber(redis.call('HGET', P .. 'firsts', lane) or '0')
    room[lane] = math.max(least, math.floor(share * firsts)) - redis.call('ZCARD', gone)
    again_at[lane] = (redis.call('ZRANGE', gone, 0, 0, 'WITHSCORES')[2] or now) + window
  end
  return room[lane]
end

for i, entry in ipairs(due) do
  local id = string.sub(entry, 1, 16)
  local score, lane, free = string.match(string.sub(entry, 18), '^(%S+) (%S+) ?(%S*)$')
  if not score or not wanted_of({ id })[1] then -- nobody can read it; or cancelled or expired while it waited
    redis.call('ZREM', P .. 'later', entry)
  elseif free == '' and room_of(lane) <= 0 then
    held_back = held_back + 1
    redis.call('ZADD', P .. 'later', int(math.max(again_at[lane], now) + i), entry)
  else
    redis.call('ZADD', P .. 'q:' .. lane, waiting_score(id, score), id)
    redis.call('ZREM', P .. 'later', entry)
    lanes[lane] = true
    tell('HINCRBY', P .. 'retried', lane, 1)
    if free == '' then
      room[lane] = room[lane] - 1
      tell('ZADD', P .. 'again:' .. lane, int(now), id .. int(now))
      tell('PEXPIRE', P .. 'again:' .. lane, int(window))
    end
  end
end
for lane in pairs(lanes) do ring(lane, now) end
return { #due, held_back }
