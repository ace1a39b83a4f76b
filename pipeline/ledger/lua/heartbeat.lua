#!lua flags=allow-oom
-- A worker's heartbeat.
-- Returns 0 if the incarnation is fenced (it takes a new name before it claims again), else 1, or 2 in degraded mode.
local incarnation = ARGV[1]
local description = ARGV[2] -- JSON
local registers = ARGV[3] == '1' -- the first heartbeat of an incarnation; any other is refused if it is not known

local beat = redis.call('ZSCORE', P .. 'beats', incarnation)
if (not beat and not registers) or (beat and tonumber(beat) <= 0) then return 0 end
redis.call('ZADD', P .. 'beats', int(now_ms()), incarnation)
redis.call('HSET', P .. 'workers', incarnation, description)
if registers then audit('what', 'registered', 'incarnation', incarnation) end
return 1 + redis.call('EXISTS', P .. 'degraded')
