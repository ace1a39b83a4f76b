#!lua flags=allow-oom
-- Removes dead letters that are too old or too many.
local max_age = ARGV[1] -- ms
local max_count = tonumber(ARGV[2])

trim_dead_letters(now_ms() - max_age, max_count)
return 1
