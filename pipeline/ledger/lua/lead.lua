#!lua flags=allow-oom
-- Take or keep the lead of the sweepers. The leader leaves what it has measured.
-- ARGV: name, what is short because of the store's memory ('', 'lean': the cache; 'full': accepting, too), then stage and
--       requests per second, any number of pairs.
-- Returns 1, or 0 if another sweeper leads.
local leader = redis.call('GET', P .. 'leader')
if leader and leader ~= ARGV[1] then return 0 end
redis.call('SET', P .. 'leader', ARGV[1], 'PX', 3000)
redis.call('DEL', P .. 'lean', P .. 'full')
if ARGV[2] ~= '' then redis.call('SET', P .. 'lean', '1', 'PX', 3000) end
if ARGV[2] == 'full' then redis.call('SET', P .. 'full', '1', 'PX', 3000) end
for i = 3, #ARGV, 2 do redis.call('HSET', P .. 'rates', ARGV[i], ARGV[i + 1]) end
return 1
