#!lua flags=allow-oom
-- Rings a lane whether or not it is marked as rung: the earlier bell may be lost.
-- Returns 'rung', 'empty', 'served' (claimed from within idle_ms), or 'bells' (some wait in the queue).
local lane = ARGV[1]
local idle_ms = tonumber(ARGV[2]) -- since the lane's last claim
local unless_bells_wait = ARGV[3] == '1' -- rings only if the queue holds no bell at all

local last = tonumber(redis.call('ZSCORE', P .. 'lanes', lane) or '0')
if redis.call('ZCARD', P .. 'q:' .. lane) == 0 then return 'empty' end
local now = now_ms()
if now - last < idle_ms then return 'served' end
if unless_bells_wait and redis.call('LLEN', P .. queue_of(lane)) > 0 then return 'bells' end
redis.call('SREM', P .. 'rung', lane)
-- Where one bell was lost others may be, and marks without a bell would keep the next stages from being rung. The lane
-- of a bell that a worker is just answering is marked, too: one more bell finds nothing to do.
local empty = {}
for _, rung in ipairs(redis.call('SMEMBERS', P .. 'rung')) do
  local queue = queue_of(rung)
  if empty[queue] == nil then empty[queue] = redis.call('LLEN', P .. queue) == 0 end
  if empty[queue] then redis.call('SREM', P .. 'rung', rung) end
end
ring_now(lane, now)
return 'rung'
