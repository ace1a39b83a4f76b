#!lua flags=allow-oom
-- Ring a lane whatever was rung before: the earlier bell may be lost.
-- ARGV: lane, idle for ms, '1' to ring only if the queue holds no bell at all.
-- Returns 'rung', 'empty', 'served' (claimed from within that time), or 'bells' (some wait in the queue).
local last = tonumber(redis.call('ZSCORE', P .. 'lanes', ARGV[1]) or '0')
if redis.call('ZCARD', P .. 'q:' .. ARGV[1]) == 0 then return 'empty' end
local now = now_ms()
if now - last < tonumber(ARGV[2]) then return 'served' end
if ARGV[3] == '1' and redis.call('LLEN', P .. string.match(ARGV[1], '^[^/]+')) > 0 then return 'bells' end
redis.call('SREM', P .. 'rung', ARGV[1])
-- Where one bell was lost others may be, and marks without a bell would keep the next stages from being rung. A bell that
-- is in a worker's hands just now is marked, too: one more finds nothing to do.
local empty = {}
for _, lane in ipairs(redis.call('SMEMBERS', P .. 'rung')) do
  local queue = string.match(lane, '^[^/]+')
  if empty[queue] == nil then empty[queue] = redis.call('LLEN', P .. queue) == 0 end
  if empty[queue] then redis.call('SREM', P .. 'rung', lane) end
end
ring_now(ARGV[1], now)
return 'rung'
