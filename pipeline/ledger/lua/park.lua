#!lua flags=allow-oom
-- Put a worker on the list of its queue's parked workers. ARGV: the entry. Returns as join() does.
return join(ARGV[1])
