#!lua flags=allow-oom
-- Stand on (ARGV[3] = 'join') or leave ('leave') a queue's list of lingering workers.
-- ARGV: worker, lane last served, what.
-- join returns 'joined', 'work' if some came in between (claim it), or 'bell' if one waits in the queue (answer it:
-- another lane's may stand behind it). leave returns 1, or 0 if a wake is under way (take it).
local queue = string.match(ARGV[2], '^[^/]+')
if ARGV[3] == 'leave' then return redis.call('LREM', P .. 'idle:' .. queue, 0, ARGV[1]) end
if redis.call('ZCARD', P .. 'q:' .. ARGV[2]) > 0 then return 'work' end
if redis.call('LLEN', P .. queue) > 0 then return 'bell' end
redis.call('LREM', P .. 'idle:' .. queue, 0, ARGV[1]) -- left there by a wait that failed
redis.call('LPUSH', P .. 'idle:' .. queue, ARGV[1])
redis.call('PEXPIRE', P .. 'idle:' .. queue, 5000) -- names of workers that died here go with it
return 'joined'
