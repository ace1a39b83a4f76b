-- Replay a dead letter at the stage that died: generation raised, attempts zero, a new deadline. If several died with it,
-- some of them in each call; the letter is kept until all wait again, so that a replay that broke off can be begun anew.
-- ARGV: id, when it died as its letter says (ms), stage, scoring lane, input, output ('' at the first stage), '1' if
--       several died, then four for each request: id, priority, timeout_ms, record ('' if it is no longer known or dead).
-- Returns how many wait again, or -1 if there is no such dead letter, or not all know yet that they are dead.
local flight, stage, scoring = ARGV[1], ARGV[3], ARGV[4]
local died = redis.call('ZSCORE', P .. 'dead', flight)
if not died or redis.call('HEXISTS', P .. 'fanout', flight) == 1 then return -1 end
local now = now_ms()
local joined = redis.call('HEXISTS', P .. 'joined', flight) == 1 -- an earlier call has begun it
local several = joined or ARGV[7] == '1'
local ids, held, members, open = {}, {}, { 'ZADD', P .. 'm:' .. flight }, { 'ZADD', P .. 'open' }
local records = {}
for i = 8, #ARGV, 4 do
  local id, deadline, record = ARGV[i], now + ARGV[i + 2], ARGV[i + 3]
  redis.call('ZREM', P .. 'dm:' .. flight, id)
  if record ~= '' and not redis.call('ZSCORE', P .. 'open', id) then -- not by another replay already
    ids[#ids + 1] = id
    records[#records + 1] = record
    redis.call('SET', P .. 'r:' .. id, record)
    local key, body = key_of(record)
    if key then held[#held + 1] = { P .. 'k:' .. key, id, body } end
    members[#members + 1] = int(ARGV[i + 1] * BAND + deadline)
    members[#members + 1] = id
    open[#open + 1] = int(deadline)
    open[#open + 1] = id
  end
end
if #ids > 0 then
  hold_keys(held)
  count_owned(records, 1)
  redis.call(unpack(open))
  if several then redis.call(unpack(members)) end
  if not joined then -- the first of them: the computation begins
    local lane = stage == 'scoring' and scoring or stage .. string.match(scoring, '/.*$')
    redis.call('HDEL', P .. 'attempts', flight)
    if several then redis.call('SET', P .. 'i:' .. flight, ARGV[5]) end
    if ARGV[6] ~= '' then redis.call('SET', P .. 'o:' .. flight, ARGV[6]) end
    -- After scoring nothing expires.
    if several then
      redis.call('HSET', P .. 'joined', flight, stage == 'postprocess' and int(now) or '0')
    elseif stage == 'postprocess' then
      redis.call('ZADD', P .. 'open', '+inf', flight)
    end
    redis.call('ZADD', P .. 'q:' .. lane, several and urgency(flight) or members[3], flight)
    redis.call('ZADD', P .. 'lanes', 'NX', int(now), lane)
    ring(lane, now)
  else
    reposition(flight, scoring)
  end
  count('replayed', #ids)
end
if redis.call('EXISTS', P .. 'dm:' .. flight) == 0 and died == ARGV[2] then -- else it has died again meanwhile
  redis.call('ZREM', P .. 'dead', flight)
  redis.call('DEL', P .. 'd:' .. flight)
end
return #ids
