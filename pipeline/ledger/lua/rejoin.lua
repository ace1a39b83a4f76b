-- Let those who died with a dead letter wait for its replay, one generation on. A replay of more than one begins with this.
-- ARGV: flight, lane, then four for each request: id, priority, timeout_ms, record. Returns how many wait now.
local flight = ARGV[1]
if not redis.call('ZSCORE', P .. 'dead', flight) then return 0 end
local now = now_ms()
-- After scoring nothing expires.
redis.call('HSET', P .. 'joined', flight, string.match(ARGV[2], '^%l+') == 'postprocess' and int(now) or '0')
local rejoined = 0
for i = 3, #ARGV, 4 do
  local id, deadline, record = ARGV[i], now + ARGV[i + 2], ARGV[i + 3]
  if not redis.call('ZSCORE', P .. 'open', id) then -- not by another replay already
    local _, key = front_of(record)
    redis.call('SET', P .. 'r:' .. id, record)
    if key ~= '' then redis.call('SET', P .. 'k:' .. string.sub(key, 1, 16), id .. string.sub(key, 17)) end
    redis.call('ZADD', P .. 'open', int(deadline), id)
    redis.call('ZADD', P .. 'm:' .. flight, int(ARGV[i + 1] * BAND + deadline), id)
    rejoined = rejoined + 1
  end
end
count('replayed', rejoined)
return rejoined
