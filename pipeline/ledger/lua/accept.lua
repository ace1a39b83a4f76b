-- Accept requests: record, waiting entry, deadline and bell; or what is there already for their keys.
-- ARGV: epoch, max_waiting, token (16 random bytes), its life in ms, result_ttl ms, idempotency_ttl ms, the payload of the
--       record of a request that joins a flight, ms between two requests of one tenant (0: any), unfinished requests of one tenant
--       (0: any), '1' if the submission batch was sent before, then five for each request: id tail (10 bytes), scoring lane ('' if
--       the record is its end, from the cache), priority, timeout_ms, record.
-- Returns {'stale'} (the releases changed: resolve again), or {'ok', answers, unfinished}: for each request 17 bytes, a
-- code and an id: n new, j new and joined to a flight, e new and ended at once with an answer that was there, o old
-- (the key is known). Or a refusal, which stores nothing: m mismatch (the key is known, with another body), f full (as
-- many are unfinished as may), s short of memory, d degraded (low priority is refused), and with ms in the place of the
-- id: l its API key's rate is used up (until then), c its API key has as many unfinished as it may, u its deadline cannot
-- be met (so long would it wait).
-- The same token gives the same answers: a client that did not hear them sends again. It is written twice: first with the time
-- that all ids of the submission batch begin with, so that a submission batch that was stopped on its way is accepted once for all that; at
-- the end with the answers. `open` is where a request is accepted. What is written before stands for nothing until then,
-- and a key or a flight that stands for nothing is not believed.
local FIRST = 11 -- ARGV: where the requests begin
local known = redis.call('MGET', P .. 'epoch', P .. 'memory_full', P .. 'a:' .. ARGV[3], P .. 'degraded', P .. 'pace')
local token = known[3]
if token and #token > 6 then return { 'ok', token, 0 } end
if (known[1] or '0') ~= ARGV[1] then return { 'stale' } end

-- What the keys stand for: requests by idempotency key, flights by cache key.
local requests_by, flights_by, bodies, tenants, keys, n = {}, {}, {}, {}, {}, 0
for i = FIRST, #ARGV, 5 do
  local key, body, cache_key, tenant = links_of(ARGV[i + 4])
  if key then
    n = n + 1
    requests_by[i], bodies[i] = P .. 'k:' .. key, body
    keys[n] = requests_by[i]
  end
  if cache_key then
    n = n + 1
    flights_by[i] = P .. 'f:' .. cache_key
    keys[n] = flights_by[i]
  end
  tenants[i] = tenant
end
local held = {}
if n > 0 then
  local values = redis.call('MGET', unpack(keys))
  for i, key in ipairs(keys) do held[key] = values[i] end
end

local now = now_ms()

-- The time that all ids begin with.
local stamp = token
if not stamp then
  stamp = ''
  local left = now
  for _ = 1, 6 do
    stamp = string.char(left % 256) .. stamp
    left = math.floor(left / 256)
  end
end

-- A key stands for a request that is accepted: it is open, or has ended.
local function is_accepted(id)
  return redis.call('ZSCORE', P .. 'open', id) or end_of(redis.call('GET', P .. 'r:' .. id))
end
for _, key in pairs(requests_by) do
  if held[key] and not is_accepted(sub(held[key], 1, 16)) then held[key] = false end
end

-- What an earlier sending of this submission batch has accepted: its answers; and the records of those that it began to end.
local accepted_before, ended_before = {}, {}
if ARGV[10] == '1' then
  for i = FIRST, #ARGV, 5 do
    local id = stamp .. ARGV[i]
    local record = redis.call('GET', P .. 'r:' .. id)
    if end_of(record) then
      local was_there = byte(record) % 32 >= 16
      accepted_before[i], ended_before[i] = was_there and 'e' or 'n', was_there and record
    elseif record and redis.call('ZSCORE', P .. 'open', id) then
      accepted_before[i] = flight_of(record) and 'j' or 'n'
    end
  end
end

-- How a known flight stands: 'own' (begun by this very call), 'live', its first member's record once it has succeeded, or
-- false if nothing is left of it but what expires. Asked once for each.
local flights = {}
local function state_of(flight)
  if flights[flight] == nil then
    local joined = redis.call('HGET', P .. 'joined', flight)
    local deadline = joined == '0' and latest_deadline(flight) or redis.call('ZSCORE', P .. 'open', flight)
    local record = not joined and redis.call('GET', P .. 'r:' .. flight)
    local ended = end_of(record)
    if not ended and ((joined and joined ~= '0') or (deadline and tonumber(deadline) > now)) then
      flights[flight] = 'live'
    else
      flights[flight] = ended == 'succeeded' and not deadline and record
    end
  end
  return flights[flight]
end

-- The record of a request that has joined a flight: its own prefix, marked with the flight, and a payload.
local function joined_record(record, flight, payload)
  return string.char(string.byte(record) + 1) .. flight .. string.sub(record, 2, payload_at(record) - 1) .. payload
end

-- The record of a request that has found its answer: its own prefix, marked as such, and the payload of the other.
local function cached_record(record, other)
  return string.char(string.byte(record) + 16) .. string.sub(record, 2, payload_at(record) - 1) .. string.sub(other, payload_at(other))
end

local unfinished = redis.call('ZCARD', P .. 'open')
local room = tonumber(ARGV[2]) - unfinished
local none = string.rep('\0', 16)
local answers, records, open, lanes = {}, { 'MSET' }, { 'ZADD', P .. 'open' }, {}
local keep, keep_flights = { 'MSET' }, { 'MSET' }
local ended, ends, joins, order, fresh, owned = {}, {}, {}, {}, 0, {}
local shares = make_shares(now, tonumber(ARGV[8]), tonumber(ARGV[9]))

-- The refusal of a request whose deadline cannot be met, or false. Only where the sweeper has found a backlog.
local paces, backlogs = known[5] and paces_of(known[5]), {}
local function unreachable(scoring, score, timeout)
  if not paces then return false end
  backlogs[scoring] = backlogs[scoring] or wait_ms(scoring, paces)
  local enough = FILL * timeout
  if backlogs[scoring] <= enough then return false end
  local wait = wait_ms(scoring, paces, score)
  return wait > enough and refusal('u', wait)
end

-- Requests that come together mostly have the same priority and time: their scores are made once.
local priority, timeout, deadline, score, deadline_text
local open_n, records_n, keep_n, keep_flights_n = #open, #records, #keep, #keep_flights

-- From here on an idempotency key stands for a request: {id, digest of the body}.
local function keep_key(key, value)
  held[key] = value
  keep[keep_n + 1], keep[keep_n + 2] = key, value
  keep_n = keep_n + 2
end

for i = FIRST, #ARGV, 5 do
  local scoring, record, tenant = ARGV[i + 1], ARGV[i + 4], tenants[i]
  local key, flight_key, body = requests_by[i], flights_by[i], bodies[i]
  local old = key and held[key]
  if accepted_before[i] then
    local id = stamp .. ARGV[i]
    answers[#answers + 1] = accepted_before[i] .. id
    if ended_before[i] then
      ended[#ended + 1] = id
      ends[#ends + 1] = ended_before[i]
    end
    if key and not old then keep_key(key, id .. body) end
  elseif old then
    local same = sub(old, 17) == body
    answers[#answers + 1] = same and 'o' .. sub(old, 1, 16) or 'm' .. none
  elseif known[2] then
    answers[#answers + 1] = 's' .. none
  elseif room <= 0 then
    answers[#answers + 1] = 'f' .. none
  else
    if ARGV[i + 2] ~= priority or ARGV[i + 3] ~= timeout then
      priority, timeout = ARGV[i + 2], ARGV[i + 3]
      deadline = now + timeout
      score, deadline_text = int(priority * BAND + deadline), int(deadline)
    end
    local id = stamp .. ARGV[i]
    local flight = flight_key and held[flight_key] and sub(held[flight_key], 1, 16)
    local state = flight and state_of(flight)
    local code = 'n'
    local answered = scoring == '' or (state and state ~= 'own' and state ~= 'live')
    local refused = tenant and shares.refuses(tenant, answered)
    if not refused and not state and not answered then -- it would have to be computed
      refused = known[4] and priority == '2' and 'd' .. none or unreachable(scoring, score, tonumber(timeout))
    end
    if key and not refused then keep_key(key, id .. body) end
    if tenant and not refused then
      shares.charge(tenant, answered)
      owned[#owned + 1] = record
    end
    if refused then
      code, id = sub(refused, 1, 1), sub(refused, 2)
    elseif scoring == '' then
      ended[#ended + 1] = id
      ends[#ends + 1] = record
    elseif answered then
      code = 'e'
      ended[#ended + 1] = id
      ends[#ends + 1] = cached_record(record, state)
    else
      room = room - 1
      fresh = fresh + 1
      open[open_n + 1], open[open_n + 2] = deadline_text, id
      open_n = open_n + 2
      records[records_n + 1], records[records_n + 2] = P .. 'r:' .. id, record
      records_n = records_n + 2
      if state then
        code = 'j'
        records[records_n] = joined_record(record, flight, ARGV[7])
        if not joins[flight] then
          joins[flight] = { 'ZADD', P .. 'm:' .. flight }
          order[#order + 1] = { flight, scoring, sub(held[flight_key], 18) }
        end
        local members = joins[flight]
        members[#members + 1] = score
        members[#members + 1] = id
      else
        if flight_key then
          flights[id] = 'own'
          held[flight_key] = id .. ':' .. score
          keep_flights[keep_flights_n + 1], keep_flights[keep_flights_n + 2] = flight_key, held[flight_key]
          keep_flights_n = keep_flights_n + 2
        end
        local waiting = lanes[scoring]
        if not waiting then
          waiting = { 'ZADD', P .. 'q:preprocess' .. string.match(scoring, '/.*$') }
          lanes[scoring] = waiting
        end
        local at = #waiting
        waiting[at + 1], waiting[at + 2] = score, id
      end
    end
    answers[#answers + 1] = code .. id
  end
end

local reply = table.concat(answers)
if fresh + #ended + #keep == 1 then return { 'ok', reply, unfinished } end
redis.call('SET', P .. 'a:' .. ARGV[3], stamp, 'PX', ARGV[4])
for scoring, waiting in pairs(lanes) do
  redis.call(unpack(waiting))
  redis.call('ZADD', P .. 'lanes', 'NX', int(now), (lanes_of(scoring)))
end
if fresh > 0 then redis.call(unpack(records)) end
for _, join in ipairs(order) do
  local flight, score = join[1], join[3]
  redis.call(unpack(joins[flight]))
  if redis.call('HEXISTS', P .. 'joined', flight) == 0 then
    -- The first to join: from now on its first member is one of several.
    local past = redis.call('ZSCORE', P .. 'open', flight) == 'inf'
    redis.call('ZADD', P .. 'm:' .. flight, score, flight)
    redis.call('HSET', P .. 'joined', flight, past and int(now) or '0')
  end
end
if #keep > 1 then redis.call(unpack(keep)) end
if fresh > 0 then redis.call(unpack(open)) end
count_owned(owned, 1)
if #keep_flights > 1 then redis.call(unpack(keep_flights)) end
commit_ends(ended, ends, 'succeeded', ARGV[5], ARGV[6])
redis.call('SET', P .. 'a:' .. ARGV[3], reply, 'PX', ARGV[4])
for _, join in ipairs(order) do reposition(join[1], join[2]) end
for scoring in pairs(lanes) do ring((lanes_of(scoring)), now) end
shares.keep()
count('accepted', fresh + #ended)
return { 'ok', reply, unfinished }
