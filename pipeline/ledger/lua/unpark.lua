#!lua flags=allow-oom
-- Takes a worker off the list of its queue's parked workers. Returns 1, or 0 if a wake is under way: take it.
local entry = ARGV[1] -- as it was parked with: 'INCARNATION FIELD LIMIT LANE'

return redis.call('LREM', P .. 'idle:' .. queue_of(string.match(entry, ' (%S+)$')), 0, entry)
