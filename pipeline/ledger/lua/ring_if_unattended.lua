#!lua flags=allow-oom
-- Rings a lane that a worker leaves, even if nothing waits in it, unless a worker is parked in its queue.
-- Returns whether it was rung.
local lane = ARGV[1]

if redis.call('EXISTS', P .. 'idle:' .. queue_of(lane)) == 1 then return 0 end
ring(lane, now_ms())
return 1
