#!lua flags=allow-oom
-- A worker's heartbeat. ARGV: incarnation, description (JSON), '1' to register.
-- Returns 1, or 0 if the incarnation is fenced: it takes a new name before it claims again.
if ARGV[3] ~= '1' and fenced(ARGV[1]) then return 0 end
redis.call('ZADD', P .. 'beats', int(now_ms()), ARGV[1])
redis.call('HSET', P .. 'workers', ARGV[1], ARGV[2])
return 1
