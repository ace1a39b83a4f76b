#!lua flags=allow-oom
-- Takes or keeps the lead of the sweepers, and publishes what the leader has found for a few seconds.
-- Returns whether it leads, whether the mode is degraded (a new leader finds that as the one before it has left it),
-- the time (ms), and by how much the server's clock is behind it (ms).
local name = ARGV[1] -- the sweeper's
local shortage = ARGV[2] -- of memory: '', 'memory_low' (for the cache) or 'memory_full' (for accepting, too)
local rates = ARGV[3] -- of lanes with a backlog, in requests per second: `LANE RATE` lines, '' if none has one
local degraded = ARGV[4] -- '1' or ''
local passed_ms = ARGV[5] -- since its last round, by its own clock

local now = now_ms()
local leader = redis.call('GET', P .. 'leader')
if leader and leader ~= name then return { 0, 0, int(now), '0' } end
redis.call('SET', P .. 'leader', name, 'PX', LEADER_TTL_MS)

-- Sets or removes a fact. One that is set again is never absent in between.
local function publish(key, value, ttl)
  if value ~= '' then
    redis.call('SET', P .. key, value, 'PX', ttl)
  else
    redis.call('DEL', P .. key)
  end
end
publish('memory_low', shortage ~= '' and '1' or '', LEADER_FACTS_TTL_MS)
publish('memory_full', shortage == 'memory_full' and '1' or '', LEADER_FACTS_TTL_MS)
publish('pace', rates, LEADER_FACTS_TTL_MS)
if leader or degraded ~= '' then publish('degraded', degraded, DEGRADED_TTL_MS) end

-- A time that was added to the server's clock is taken back: a share of the time that passes.
local offset = tonumber(redis.call('GET', P .. 'offset') or '0')
if leader and offset > 0 then
  offset = math.max(0, offset - math.floor(CLOCK_SLEW * passed_ms))
  redis.call('SET', P .. 'offset', int(offset))
end
if redis.call('EXISTS', P .. 'open') == 0 then redis.call('DEL', P .. 'owned') end -- corrects what a count has missed
return { 1, redis.call('EXISTS', P .. 'degraded'), int(now), int(offset) }
