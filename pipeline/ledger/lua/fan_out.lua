#!lua flags=allow-oom
-- Gives the outcome of a joined flight to its next members. Returns how many got it, and how many are left.
-- The flight leaves `fanout` last: until then the sweeper comes again.
local result_ttl = ARGV[1] -- ms
local idempotency_ttl = ARGV[2] -- ms
local dead_max_age = ARGV[3] -- ms
local flight = ARGV[4]
local cache_max_bytes = tonumber(ARGV[5])

local outcome, entry = redis.call('GET', P .. 'e:' .. flight), redis.call('HGET', P .. 'fanout', flight)
if not entry then return { 0, 0 } end
if not outcome then -- an earlier call was stopped when it had removed all else
  redis.call('HDEL', P .. 'fanout', flight)
  return { 0, 0 }
end
local now = now_ms()
local state, reusable_ms = string.match(entry, '^(%l+) (%d+)$')
local members = redis.call('ZRANGE', P .. 'm:' .. flight, 0, SCRIPT_LIMIT - 1)
local ids, ends = {}, {}
if #members > 0 then
  local opens = redis.call('ZMSCORE', P .. 'open', unpack(members))
  local records = redis.call('MGET', unpack(keys_of('r:', members)))
  for i, id in ipairs(members) do
    if opens[i] then
      ids[#ids + 1] = id
      ends[#ends + 1] = records[i] and with_payload_of(records[i], outcome) or outcome
    end
  end
  commit_ends(ids, ends, state, result_ttl, idempotency_ttl, function(had_ended)
    if state ~= 'dead' then return end
    local died = { 'ZADD', P .. 'dm:' .. flight } -- the dead letter is theirs
    for _, id in ipairs(ids) do
      if not had_ended[id] then
        died[#died + 1] = 0
        died[#died + 1] = id
      end
    end
    if #died == 2 then return end
    redis.call(unpack(died))
    redis.call('PEXPIRE', died[2], dead_max_age)
  end)
  redis.call('ZREM', P .. 'm:' .. flight, unpack(members))
end
local left = redis.call('ZCARD', P .. 'm:' .. flight)
if left == 0 then
  -- If its first member left it early, that one's record is no answer.
  local answers = state == 'succeeded' and redis.call('EXISTS', P .. 'i:' .. flight) == 0
  close_flights({ flight }, { outcome }, now, answers and { tonumber(reusable_ms), cache_max_bytes } or nil)
  forget_joined(flight)
  redis.call('HDEL', P .. 'fanout', flight)
end
return { #ids, left }
