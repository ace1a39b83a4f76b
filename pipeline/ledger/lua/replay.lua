-- Replay a dead letter at the stage that died: generation raised, attempts zero, a new deadline.
-- ARGV: id, lane, priority, timeout_ms, record, output ('' at the first stage), '1' if several died with it (they have
--       rejoined already).
-- Returns 1, or 0 if there is no such dead letter (replayed already, or purged).
local id, lane, record, several = ARGV[1], ARGV[2], ARGV[5], ARGV[7] == '1'
if not redis.call('ZSCORE', P .. 'dead', id) then return 0 end
if not several and redis.call('ZSCORE', P .. 'open', id) then return 0 end
local now = now_ms()
local deadline = now + ARGV[4]
local score = int(ARGV[3] * BAND + deadline)
redis.call('ZREM', P .. 'dead', id)
redis.call('DEL', P .. 'd:' .. id, P .. 'dm:' .. id)
redis.call('HDEL', P .. 'attempts', id)
if several then
  redis.call('SET', P .. 'i:' .. id, record)
  score = merged_score(id)
else
  local _, key = front_of(record)
  redis.call('SET', P .. 'r:' .. id, record)
  if key ~= '' then redis.call('SET', P .. 'k:' .. string.sub(key, 1, 16), id .. string.sub(key, 17)) end
  -- After scoring nothing expires.
  redis.call('ZADD', P .. 'open', string.match(lane, '^%l+') == 'postprocess' and '+inf' or int(deadline), id)
  count('replayed', 1)
end
if ARGV[6] ~= '' then redis.call('SET', P .. 'o:' .. id, ARGV[6]) end
redis.call('ZADD', P .. 'q:' .. lane, score, id)
redis.call('ZADD', P .. 'lanes', 'NX', int(now), lane)
ring(lane, now)
return 1
