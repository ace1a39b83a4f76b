#!lua flags=allow-oom
-- Stand on (ARGV[3] = 'join') or leave ('leave') a queue's list of lingering workers.
-- ARGV: worker, lane last served, what.
-- join returns 1, or 0 if work came in between (claim instead). leave returns 1, or 0 if a wake is under way (take it).
local queue = string.match(ARGV[2], '^[^/]+')
if ARGV[3] == 'leave' then return redis.call('LREM', P .. 'idle:' .. queue, 0, ARGV[1]) end
if redis.call('ZCARD', P .. 'q:' .. ARGV[2]) > 0 then return 0 end
redis.call('LPUSH', P .. 'idle:' .. queue, ARGV[1])
redis.call('PEXPIRE', P .. 'idle:' .. queue, 5000) -- names of workers that died here go with it
return 1
