-- Replay a dead letter at the stage that died: generation raised, attempts zero, a new deadline. If several died with it,
-- some of them in each call; the letter is kept until all wait again, so that a replay that broke off can be begun anew.
-- ARGV: id, when it died as its letter says (ms), stage, scoring lane, input, output ('' at the first stage), '1' if
--       several died, then four for each request: id, priority, timeout_ms, record ('' if it is no longer known or dead).
-- Returns how many wait again, and how many did already; or -1 and 0 if there is no such dead letter (or a newer one), or
-- not all know yet that they are dead.
-- What a request is computed from comes first, its record as accepted last, the letter goes when all of that is there. A
-- request whose record still says that it is dead leaves `open` again, as dead, when a worker comes to it.
local flight, stage, scoring = ARGV[1], ARGV[3], ARGV[4]
if redis.call('ZSCORE', P .. 'dead', flight) ~= ARGV[2] or redis.call('HEXISTS', P .. 'fanout', flight) == 1 then
  return { -1, 0 }
end
local now = now_ms()
local joined = redis.call('HEXISTS', P .. 'joined', flight) == 1 -- an earlier call has begun it
local several = joined or ARGV[7] == '1'
local ids, back, held, again, died = {}, {}, {}, 0, {} -- back: records of those that are not open already
local members, open, set = { 'ZADD', P .. 'm:' .. flight }, { 'ZADD', P .. 'open' }, { 'MSET' }
for i = 8, #ARGV, 4 do
  local id, deadline, record = ARGV[i], now + ARGV[i + 2], ARGV[i + 3]
  died[#died + 1] = id
  local is_open = redis.call('ZSCORE', P .. 'open', id)
  if is_open and not end_of(redis.call('GET', P .. 'r:' .. id)) then -- by another replay
    again = again + 1
  elseif record ~= '' then
    ids[#ids + 1] = id
    if not is_open then back[#back + 1] = record end
    set[#set + 1], set[#set + 2] = P .. 'r:' .. id, record
    local key, body = key_of(record)
    if key then held[#held + 1] = { P .. 'k:' .. key, id, body } end
    members[#members + 1] = int(ARGV[i + 1] * BAND + deadline)
    members[#members + 1] = id
    open[#open + 1] = stage == 'postprocess' and not several and '+inf' or int(deadline) -- after scoring nothing expires
    open[#open + 1] = id
  end
end
if #ids > 0 then
  for i, part in ipairs(holding(held) or {}) do
    if i > 2 then set[#set + 1] = part end
  end
  redis.call('MSET', P .. 'confirm', '') -- the records' command: where that may not be sent, nothing is to begin
  local lane = stage == 'scoring' and scoring or stage .. string.match(scoring, '/.*$')
  if not joined then -- the first of them: the computation begins
    local sources = { 'MSET' }
    if several then sources[2], sources[3] = P .. 'i:' .. flight, ARGV[5] end
    if ARGV[6] ~= '' then sources[#sources + 1], sources[#sources + 2] = P .. 'o:' .. flight, ARGV[6] end
    if #sources > 1 then redis.call(unpack(sources)) end
    redis.call('HDEL', P .. 'attempts', flight)
  end
  if several then redis.call(unpack(members)) end
  if not joined then
    if several then redis.call('HSET', P .. 'joined', flight, stage == 'postprocess' and int(now) or '0') end
    redis.call('ZADD', P .. 'q:' .. lane, several and urgency(flight) or members[3], flight)
    tell('ZADD', P .. 'lanes', 'NX', int(now), lane)
  end
  redis.call(unpack(open))
  count_owned(back, 1)
  redis.call(unpack(set))
  count('replayed', #ids)
  if joined then reposition(flight, scoring) else ring(lane, now) end
end
if #died > 0 then redis.call('ZREM', P .. 'dm:' .. flight, unpack(died)) end
if redis.call('EXISTS', P .. 'dm:' .. flight) == 0 then
  redis.call('DEL', P .. 'd:' .. flight)
  redis.call('ZREM', P .. 'dead', flight)
end
return { #ids, again }
