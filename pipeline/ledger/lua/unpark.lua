#!lua flags=allow-oom
-- Take a worker off the list of its queue's parked workers. ARGV: the entry, as join() has it.
-- Returns 1, or 0 if a wake is under way: take it.
return redis.call('LREM', P .. 'idle:' .. string.match(ARGV[1], ' ([^/ ]+)/%S+$'), 0, ARGV[1])
