-- Replay a dead letter at the stage that died: generation raised, attempts zero, a new deadline.
-- ARGV: id, lane, priority, timeout_ms, record, output ('' at the first stage), idempotency key and body digest or ''.
-- Returns 1, or 0 if there is no such dead letter (replayed already, or purged).
local id, lane = ARGV[1], ARGV[2]
if not redis.call('ZSCORE', P .. 'dead', id) or redis.call('ZSCORE', P .. 'open', id) then return 0 end
local now = now_ms()
local deadline = now + ARGV[4]
redis.call('ZREM', P .. 'dead', id)
redis.call('DEL', P .. 'd:' .. id)
redis.call('HDEL', P .. 'attempts', id)
redis.call('SET', P .. 'r:' .. id, ARGV[5])
if ARGV[7] ~= '' then redis.call('SET', P .. 'k:' .. string.sub(ARGV[7], 1, 16), id .. string.sub(ARGV[7], 17)) end
if ARGV[6] ~= '' then redis.call('SET', P .. 'o:' .. id, ARGV[6]) end
-- After scoring nothing expires.
redis.call('ZADD', P .. 'open', string.match(lane, '^%l+') == 'postprocess' and '+inf' or int(deadline), id)
redis.call('ZADD', P .. 'q:' .. lane, int(ARGV[3] * 8796093022208 + deadline), id)
redis.call('ZADD', P .. 'lanes', 'NX', int(now), lane)
count('replayed', 1)
ring(lane, now)
return 1
