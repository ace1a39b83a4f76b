#!lua flags=allow-oom
-- Ring a lane whatever was rung before: the earlier bell may be lost. ARGV: lane, idle for ms.
-- Returns 1 if it rang; 0 if the lane is empty or was claimed from within that time.
local last = tonumber(redis.call('ZSCORE', P .. 'lanes', ARGV[1]) or '0')
if now_ms() - last < tonumber(ARGV[2]) or redis.call('ZCARD', P .. 'q:' .. ARGV[1]) == 0 then return 0 end
-- Where no worker answers, bells do not pile up: those in the queue will do, or be missed and rung again.
if redis.call('LLEN', P .. string.match(ARGV[1], '^[^/]+')) >= 8 then return 0 end
redis.call('SREM', P .. 'rung', ARGV[1])
ring(ARGV[1])
return 1
