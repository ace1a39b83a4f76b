#!lua flags=allow-oom
-- Ring a lane that a worker leaves, though nothing may wait there, unless a worker is parked in its queue.
-- ARGV: the lane. Returns whether it was rung.
local lane = ARGV[1]
if redis.call('EXISTS', P .. 'idle:' .. string.match(lane, '^[^/]+')) == 1 then return 0 end
ring(lane, now_ms())
return 1
