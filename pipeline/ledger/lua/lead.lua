#!lua flags=allow-oom
-- Take or keep the lead of the sweepers. The leader says what is the case, for three seconds at a time.
-- ARGV: name, what is short because of the store's memory ('', 'lean': the cache; 'full': accepting, too), lanes with a
--       backlog and what they do per second (`LANE RATE` lines; '' if none has one), '1' in degraded mode ('' else).
-- Returns whether it leads, and whether the mode is degraded. A new leader finds that as the one before it has left it.
local leader = redis.call('GET', P .. 'leader')
if leader and leader ~= ARGV[1] then return { 0, 0 } end
redis.call('SET', P .. 'leader', ARGV[1], 'PX', 1500)
redis.call('DEL', P .. 'lean', P .. 'full', P .. 'pace')
if leader then redis.call('DEL', P .. 'degraded') end
if ARGV[2] ~= '' then redis.call('SET', P .. 'lean', '1', 'PX', 3000) end
if ARGV[2] == 'full' then redis.call('SET', P .. 'full', '1', 'PX', 3000) end
if ARGV[3] ~= '' then redis.call('SET', P .. 'pace', ARGV[3], 'PX', 3000) end
if ARGV[4] ~= '' then redis.call('SET', P .. 'degraded', '1', 'PX', 10000) end
return { 1, redis.call('EXISTS', P .. 'degraded') }
