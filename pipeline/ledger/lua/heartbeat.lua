#!lua flags=allow-oom
-- A worker's heartbeat. ARGV: incarnation, description (JSON), '1' to register.
-- Returns 0 if the incarnation is fenced (it takes a new name before it claims again), else 1, or 2 in degraded mode.
local beat = redis.call('ZSCORE', P .. 'beats', ARGV[1])
if (not beat and ARGV[3] ~= '1') or (beat and tonumber(beat) <= 0) then return 0 end
redis.call('ZADD', P .. 'beats', int(now_ms()), ARGV[1])
redis.call('HSET', P .. 'workers', ARGV[1], ARGV[2])
if ARGV[3] == '1' then audit('what', 'registered', 'incarnation', ARGV[1]) end
return 1 + redis.call('EXISTS', P .. 'degraded')
