#!lua flags=allow-oom
-- Take or keep the lead of the sweepers. The leader says what is the case, for three seconds at a time.
-- ARGV: name, what is short because of the store's memory ('', 'memory_low': the cache; 'memory_full': accepting, too), lanes with a
--       backlog and what they do per second (`LANE RATE` lines; '' if none has one), '1' in degraded mode ('' else), ms
--       since its last round by its own clock.
-- Returns whether it leads, whether the mode is degraded (a new leader finds that as the one before it has left it), the
-- time (ms), and by how much the server's clock is behind it (ms).
-- A time that was added to the server's clock is taken back: of the time that passes, this share.
local SLEW = 0.2
local now = now_ms()
local leader = redis.call('GET', P .. 'leader')
if leader and leader ~= ARGV[1] then return { 0, 0, int(now), '0' } end
redis.call('SET', P .. 'leader', ARGV[1], 'PX', 1500)

-- Say that something is the case, or no more. What is said is never unsaid for a moment in between.
local function say(name, value, ms)
  if value ~= '' then redis.call('SET', P .. name, value, 'PX', ms) else redis.call('DEL', P .. name) end
end
say('memory_low', ARGV[2] ~= '' and '1' or '', 3000)
say('memory_full', ARGV[2] == 'memory_full' and '1' or '', 3000)
say('pace', ARGV[3], 3000)
if leader or ARGV[4] ~= '' then say('degraded', ARGV[4], 10000) end

local offset = tonumber(redis.call('GET', P .. 'offset') or '0')
if leader and offset > 0 then
  offset = math.max(0, offset - math.floor(SLEW * ARGV[5]))
  redis.call('SET', P .. 'offset', int(offset))
end
if redis.call('EXISTS', P .. 'open') == 0 then redis.call('DEL', P .. 'owned') end -- whatever a count has missed
return { 1, redis.call('EXISTS', P .. 'degraded'), int(now), int(offset) }
