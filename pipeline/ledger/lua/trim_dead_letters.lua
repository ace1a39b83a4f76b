#!lua flags=allow-oom
-- Drop dead letters that are too old or too many. ARGV: dead_max_age ms, dead_max_count.
trim_letters(now_ms() - ARGV[1], tonumber(ARGV[2]))
return 1
