#!lua flags=allow-oom
-- Take or keep the lead of the sweepers. The leader leaves what it has measured.
-- ARGV: name, '1' if the store's memory is nearly used up, then stage and requests per second, any number of pairs.
-- Returns 1, or 0 if another sweeper leads.
local leader = redis.call('GET', P .. 'leader')
if leader and leader ~= ARGV[1] then return 0 end
redis.call('SET', P .. 'leader', ARGV[1], 'PX', 3000)
if ARGV[2] == '1' then
  redis.call('SET', P .. 'full', '1', 'PX', 3000)
else
  redis.call('DEL', P .. 'full')
end
for i = 3, #ARGV, 2 do redis.call('HSET', P .. 'rates', ARGV[i], ARGV[i + 1]) end
return 1
