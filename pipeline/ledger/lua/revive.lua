#!lua flags=allow-oom
-- Move retries that are due into their lanes and ring them. Returns how many were due.
local now = now_ms()
local due = redis.call('ZRANGE', P .. 'later', '-inf', int(now), 'BYSCORE', 'LIMIT', 0, 128)
local lanes = {}
for _, entry in ipairs(due) do
  local id = string.sub(entry, 1, 16)
  local score, lane = string.match(string.sub(entry, 18), '^(%S+) (.*)$')
  redis.call('ZREM', P .. 'later', entry)
  if wanted_of({ id })[1] then -- not cancelled or expired while it waited
    redis.call('ZADD', P .. 'q:' .. lane, waiting_score(id, score), id)
    lanes[lane] = true
  end
end
for lane in pairs(lanes) do ring(lane, now) end
return #due
