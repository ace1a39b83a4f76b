#!lua flags=allow-oom
-- Moves retries that are due into their lanes and rings them, as far as each lane's retry budget allows: a share of the
-- recent first attempts. What is beyond it waits until there is room again, in order, with no attempt used up.
-- Returns how many were due, and how many of them were held back.
-- They wait in the lane before they leave `later`.
local window_ms = tonumber(ARGV[1]) -- of the budget
local share = tonumber(ARGV[2]) -- of the first attempts in that time
local least = tonumber(ARGV[3]) -- retries that are allowed in any case

local now = now_ms()
redis.call('ZREM', P .. 'later', '') -- nothing: where this may not be sent, no retry should be brought back each round
local due = redis.call('ZRANGE', P .. 'later', '-inf', int(now), 'BYSCORE', 'LIMIT', 0, SCRIPT_LIMIT)
local lanes, held_back, room, again_at = {}, 0, {}, {}

-- How many more retries of a lane may go.
local function room_of(lane)
  if not room[lane] then
    local gone = P .. 'again:' .. lane
    best_effort('ZREMRANGEBYSCORE', gone, '-inf', int(now - window_ms))
    local firsts = tonumber(redis.call('HGET', P .. 'firsts', lane) or '0')
    room[lane] = math.max(least, math.floor(share * firsts)) - redis.call('ZCARD', gone)
    again_at[lane] = (redis.call('ZRANGE', gone, 0, 0, 'WITHSCORES')[2] or now) + window_ms
  end
  return room[lane]
end

for i, entry in ipairs(due) do
  local id = sub(entry, 1, ID_BYTES)
  local score, lane, free = string.match(sub(entry, ID_BYTES + 2), '^(%S+) (%S+) ?(%S*)$') -- behind the id and a space
  if not score or not wanted_of({ id })[1] then -- it cannot be read; or it was cancelled or expired while it waited
    redis.call('ZREM', P .. 'later', entry)
  elseif free == '' and room_of(lane) <= 0 then
    held_back = held_back + 1
    redis.call('ZADD', P .. 'later', int(math.max(again_at[lane], now) + i), entry)
  else
    redis.call('ZADD', P .. 'q:' .. lane, waiting_score(id, score), id)
    redis.call('ZREM', P .. 'later', entry)
    lanes[lane] = true
    best_effort('HINCRBY', P .. 'retried', lane, 1)
    if free == '' then
      room[lane] = room[lane] - 1
      best_effort('ZADD', P .. 'again:' .. lane, int(now), id .. int(now))
      best_effort('PEXPIRE', P .. 'again:' .. lane, int(window_ms))
    end
  end
end
for lane in pairs(lanes) do
  ring(lane, now)
end
return { #due, held_back }
