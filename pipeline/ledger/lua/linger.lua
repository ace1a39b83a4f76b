#!lua flags=allow-oom
-- Stand on (ARGV[1] = 'join') or leave ('leave') a queue's list of lingering workers. ARGV[2]: entry, see join.
-- join returns as join() does. leave returns 1, or 0 if a wake is under way (take it).
if ARGV[1] == 'join' then return join(ARGV[2]) end
return redis.call('LREM', P .. 'idle:' .. string.match(ARGV[2], ' ([^/ ]+)/%S+$'), 0, ARGV[2])
