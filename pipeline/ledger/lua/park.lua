#!lua flags=allow-oom
-- Puts a worker on the list of its queue's parked workers. Returns as park() does.
local entry = ARGV[1] -- 'INCARNATION FIELD LIMIT LANE'

return park(entry)
