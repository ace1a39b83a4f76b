#!lua flags=allow-oom
-- Stand on (ARGV[3] = 'join') or leave ('leave') a queue's list of lingering workers.
-- ARGV: worker, lane last served, what.
-- join returns as join() does. leave returns 1, or 0 if a wake is under way (take it).
if ARGV[3] == 'join' then return join(ARGV[1], ARGV[2]) end
return redis.call('LREM', P .. 'idle:' .. string.match(ARGV[2], '^[^/]+'), 0, ARGV[1])
