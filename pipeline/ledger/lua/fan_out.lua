#!lua flags=allow-oom
-- Give the outcome of a joined flight to its next members.
-- ARGV: result_ttl ms, idempotency_ttl ms, dead_max_age ms, flight, what the cache may take (bytes). Returns how many got it, and how many are left.
-- Its place in `fanout` goes last but one: until then the sweeper comes again.
local flight = ARGV[4]
local outcome, told = redis.call('GET', P .. 'e:' .. flight), redis.call('HGET', P .. 'fanout', flight)
if not told then return { 0, 0 } end
if not outcome then -- an earlier call was stopped when it had forgotten all else
  redis.call('HDEL', P .. 'fanout', flight)
  return { 0, 0 }
end
local now = now_ms()
local state, cache_ms = string.match(told, '^(%l+) (%d+)$')
local members = redis.call('ZRANGE', P .. 'm:' .. flight, 0, 127)
local ids, ends = {}, {}
if #members > 0 then
  local opens = redis.call('ZMSCORE', P .. 'open', unpack(members))
  local records = redis.call('MGET', unpack(keys_of('r:', members)))
  local payload = payload_at(outcome)
  for i, id in ipairs(members) do
    if opens[i] then
      local own = records[i]
      ids[#ids + 1] = id
      ends[#ends + 1] = own and string.sub(own, 1, payload_at(own) - 1) .. string.sub(outcome, payload) or outcome
    end
  end
  commit_ends(ids, ends, state, ARGV[1], ARGV[2], function(had_ended)
    if state ~= 'dead' then return end
    local died = { 'ZADD', P .. 'dm:' .. flight } -- the letter is theirs
    for _, id in ipairs(ids) do
      if not had_ended[id] then
        died[#died + 1] = 0
        died[#died + 1] = id
      end
    end
    if #died == 2 then return end
    redis.call(unpack(died))
    redis.call('PEXPIRE', died[2], ARGV[3])
  end)
  redis.call('ZREM', P .. 'm:' .. flight, unpack(members))
end
local left = redis.call('ZCARD', P .. 'm:' .. flight)
if left == 0 then
  -- If its first member left it early, that one's record is no answer.
  local answers = state == 'succeeded' and redis.call('EXISTS', P .. 'i:' .. flight) == 0
  close_flights({ flight }, { outcome }, now, answers and { tonumber(cache_ms), tonumber(ARGV[5]) } or nil)
  forget_joined(flight)
  redis.call('HDEL', P .. 'fanout', flight)
end
return { #ids, left }
