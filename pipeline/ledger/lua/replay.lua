-- Replays a dead letter at the stage that failed: generation raised, attempts zero, a new deadline. If several requests
-- died with it, each call brings back some of them; the dead letter is kept until all wait again, so that a replay that
-- was interrupted can be repeated.
-- Returns how many wait again, and how many did already; or -1 and 0 if there is no such dead letter (or a newer one),
-- or if not all its requests are written as dead yet.
-- What a request is computed from is written first and its record as accepted last; the dead letter goes after all of
-- that.
-- A request whose record still says that it is dead leaves `open` again, as dead, when a worker comes to it.
local flight = ARGV[1] -- the dead letter's id
local died_at = ARGV[2] -- ms, as the letter says
local stage = ARGV[3] -- that failed
local scoring = ARGV[4] -- its scoring lane
local input = ARGV[5] -- a record, for the copy of a joined flight's input
local output = ARGV[6] -- the latest, '' at the first stage
local several_died = ARGV[7] == '1'
-- Then for each request: id, priority, timeout in ms, record ('' if it is no longer known or no longer dead).
local FIRST, STEP = 8, 4

if redis.call('ZSCORE', P .. 'dead', flight) ~= died_at or redis.call('HEXISTS', P .. 'fanout', flight) == 1 then
  return { -1, 0 }
end
local now = now_ms()
local joined = is_joined(flight) -- an earlier call has begun it
local several = joined or several_died
local ids, back, held, waited, died = {}, {}, {}, 0, {} -- back: records of those that are not open already
local members, open, set = { 'ZADD', P .. 'm:' .. flight }, { 'ZADD', P .. 'open' }, { 'MSET' }
for i = FIRST, #ARGV, STEP do
  local id, priority, deadline, record = ARGV[i], ARGV[i + 1], now + ARGV[i + 2], ARGV[i + 3]
  died[#died + 1] = id
  local is_open = redis.call('ZSCORE', P .. 'open', id)
  if is_open and not end_of(redis.call('GET', P .. 'r:' .. id)) then -- by another replay
    waited = waited + 1
  elseif record ~= '' then
    ids[#ids + 1] = id
    if not is_open then back[#back + 1] = record end
    set[#set + 1], set[#set + 2] = P .. 'r:' .. id, record
    local key, body = key_of(record)
    if key then held[#held + 1] = { P .. 'k:' .. key, id, body } end
    members[#members + 1] = int(priority * PRIORITY_STEP + deadline)
    members[#members + 1] = id
    -- After scoring nothing expires.
    open[#open + 1] = stage == 'postprocess' and not several and '+inf' or int(deadline)
    open[#open + 1] = id
  end
end
if #ids > 0 then
  for i, part in ipairs(key_writes(held) or {}) do
    if i > 2 then set[#set + 1] = part end
  end
  redis.call('MSET', P .. 'confirm', '') -- the command of the records: where it may not be sent, nothing should begin
  local lane = stage == 'scoring' and scoring or stage .. string.match(scoring, '/.*$')
  if not joined then -- the first call: the computation begins
    local sources = { 'MSET' }
    if several then
      sources[2], sources[3] = P .. 'i:' .. flight, input
    end
    if output ~= '' then
      sources[#sources + 1], sources[#sources + 2] = P .. 'o:' .. flight, output
    end
    if #sources > 1 then redis.call(unpack(sources)) end
    redis.call('HDEL', P .. 'attempts', flight)
  end
  if several then redis.call(unpack(members)) end
  if not joined then
    if several then redis.call('HSET', P .. 'joined', flight, stage == 'postprocess' and int(now) or '0') end
    redis.call('ZADD', P .. 'q:' .. lane, several and urgency(flight) or members[3], flight)
    best_effort('ZADD', P .. 'lanes', 'NX', int(now), lane)
  end
  redis.call(unpack(open))
  count_for_tenants(back, 1)
  redis.call(unpack(set))
  count('replayed', #ids)
  if joined then
    reposition(flight, scoring)
  else
    ring(lane, now)
  end
end
if #died > 0 then redis.call('ZREM', P .. 'dm:' .. flight, unpack(died)) end
if redis.call('EXISTS', P .. 'dm:' .. flight) == 0 then
  redis.call('DEL', P .. 'd:' .. flight)
  redis.call('ZREM', P .. 'dead', flight)
end
return { #ids, waited }
