-- Accepts requests: record, waiting entry, deadline and bell; or finds what their keys stand for already.
-- Returns {'stale'} (the releases changed: resolve again), or {'ok', answers, unfinished}: for each request 17 bytes, a
-- code and an id: n new, j new and joined to a flight, e new and ended at once with an answer that was there, o old
-- (the key is known). Or a refusal, which stores nothing: m mismatch (the key is known, with another body), f full (as
-- many requests are unfinished as may be), s short of memory, d degraded (low priority is refused). With a number of ms
-- in the place of the id: l the tenant's rate is used up (until then), c the tenant has as many unfinished requests as
-- it may (the number is 0), u its deadline cannot be met (the wait would be that long).
-- The same token gives the same answers: a client that did not get them sends again. `a:` is written twice: first with
-- the time that all ids of the submission batch begin with, so that a batch that was stopped is accepted once all the
-- same; at the end with the answers. A request is accepted when it is in `open`. What is written before has no meaning
-- until then, and a key or a flight that leads to nothing is ignored.
local epoch = ARGV[1] -- of the releases that these requests were resolved with
local max_unfinished = tonumber(ARGV[2]) -- requests
local token = ARGV[3] -- the submission batch's: 16 random bytes
local token_ttl = ARGV[4] -- ms
local result_ttl = ARGV[5] -- ms
local idempotency_ttl = ARGV[6] -- ms
local member_payload = ARGV[7] -- of the record of a request that joins a flight
local tenant_interval_ms = tonumber(ARGV[8]) -- between two requests of one tenant (0: no limit)
local tenant_max_unfinished = tonumber(ARGV[9]) -- requests of one tenant (0: no limit)
local was_sent = ARGV[10] == '1' -- the submission batch was sent before
-- Then for each request: the id's last 10 bytes, the scoring lane ('' if the record is its end, from the cache), the
-- priority, the timeout in ms, the record.
local FIRST, STEP = 11, 5

local known = redis.call('MGET', P .. 'epoch', P .. 'memory_full', P .. 'a:' .. token, P .. 'degraded', P .. 'pace')
local present_epoch, memory_full, stored, degraded, rates_text = unpack(known)
if stored and #stored > ID_TIME_BYTES then return { 'ok', stored, 0 } end
if (present_epoch or '0') ~= epoch then return { 'stale' } end

-- What the keys stand for: requests by idempotency key, flights by cache key.
local requests_by, flights_by, bodies, tenants, keys, n = {}, {}, {}, {}, {}, 0
for i = FIRST, #ARGV, STEP do
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
  for i, key in ipairs(keys) do
    held[key] = values[i]
  end
end

local now = now_ms()

-- The time that all ids begin with.
local stamp = stored
if not stamp then
  stamp = ''
  local rest = now
  for _ = 1, ID_TIME_BYTES do
    stamp = string.char(rest % 256) .. stamp
    rest = math.floor(rest / 256)
  end
end

-- A key stands for a request that is accepted: it is open, or has ended.
local function is_accepted(id)
  return redis.call('ZSCORE', P .. 'open', id) or end_of(redis.call('GET', P .. 'r:' .. id))
end
for _, key in pairs(requests_by) do
  if held[key] and not is_accepted(sub(held[key], 1, ID_BYTES)) then held[key] = false end
end

-- What an earlier sending of this submission batch has accepted: its answers, and the records of those that it began to
-- end.
local accepted_before, ended_before = {}, {}
if was_sent then
  for i = FIRST, #ARGV, STEP do
    local id = stamp .. ARGV[i]
    local record = redis.call('GET', P .. 'r:' .. id)
    if end_of(record) then
      local was_cached = byte(record) % HAS_TENANT >= WAS_CACHED
      accepted_before[i], ended_before[i] = was_cached and 'e' or 'n', was_cached and record
    elseif record and redis.call('ZSCORE', P .. 'open', id) then
      accepted_before[i] = flight_of(record) and 'j' or 'n'
    end
  end
end

-- The state of a known flight: 'own' (begun by this very call), 'live', its first member's record once it has
-- succeeded, or false if nothing is left of it but what expires. Each is read once.
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
  return string.char(byte(record) + HAS_FLIGHT) .. flight .. sub(record, 2, payload_at(record) - 1) .. payload
end

-- The record of a request that has found its answer: its own prefix, marked as such, and the payload of the other.
local function cached_record(record, other)
  return string.char(byte(record) + WAS_CACHED) .. sub(with_payload_of(record, other), 2)
end

local unfinished = redis.call('ZCARD', P .. 'open')
local room = max_unfinished - unfinished
local none = string.rep('\0', ID_BYTES)
local answers, records, open, lanes = {}, { 'MSET' }, { 'ZADD', P .. 'open' }, {}
local keep, keep_flights = { 'MSET' }, { 'MSET' }
local ended, ends, joins, order, fresh, of_tenants = {}, {}, {}, {}, 0, {}
local limits = make_tenant_limits(now, tenant_interval_ms, tenant_max_unfinished)

-- The refusal of a request whose deadline cannot be met, or false. Only where the sweeper has found a backlog.
local rates, backlogs = rates_text and rates_of(rates_text), {}
local function unreachable(scoring, score, timeout)
  if not rates then return false end
  backlogs[scoring] = backlogs[scoring] or estimated_wait_ms(scoring, rates)
  local longest = MAX_WAIT_SHARE * timeout
  if backlogs[scoring] <= longest then return false end
  local wait = estimated_wait_ms(scoring, rates, score)
  return wait > longest and refusal('u', wait)
end

-- Requests that come together mostly have the same priority and timeout: their scores are made once.
local priority, timeout, deadline, score, deadline_text
local open_n, records_n, keep_n, keep_flights_n = #open, #records, #keep, #keep_flights

-- From here on an idempotency key stands for a request. value: its id, and the digest of the body.
local function keep_key(key, value)
  held[key] = value
  keep[keep_n + 1], keep[keep_n + 2] = key, value
  keep_n = keep_n + 2
end

for i = FIRST, #ARGV, STEP do
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
    local same = sub(old, ID_BYTES + 1) == body
    answers[#answers + 1] = same and 'o' .. sub(old, 1, ID_BYTES) or 'm' .. none
  elseif memory_full then
    answers[#answers + 1] = 's' .. none
  elseif room <= 0 then
    answers[#answers + 1] = 'f' .. none
  else
    if ARGV[i + 2] ~= priority or ARGV[i + 3] ~= timeout then
      priority, timeout = ARGV[i + 2], ARGV[i + 3]
      deadline = now + timeout
      score, deadline_text = int(priority * PRIORITY_STEP + deadline), int(deadline)
    end
    local id = stamp .. ARGV[i]
    local flight = flight_key and held[flight_key] and sub(held[flight_key], 1, ID_BYTES)
    local state = flight and state_of(flight)
    local code = 'n'
    local answered = scoring == '' or (state and state ~= 'own' and state ~= 'live')
    local refused = tenant and limits.refuses(tenant, answered)
    if not refused and not state and not answered then -- it would have to be computed
      refused = degraded and tonumber(priority) == LOWEST_PRIORITY and 'd' .. none
        or unreachable(scoring, score, tonumber(timeout))
    end
    if key and not refused then keep_key(key, id .. body) end
    if tenant and not refused then
      limits.charge(tenant, answered)
      of_tenants[#of_tenants + 1] = record
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
        records[records_n] = joined_record(record, flight, member_payload)
        if not joins[flight] then
          joins[flight] = { 'ZADD', P .. 'm:' .. flight }
          order[#order + 1] = { flight, scoring, sub(held[flight_key], ID_BYTES + 2) } -- behind the id and a colon
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
          waiting = { 'ZADD', P .. 'q:' .. lanes_of(scoring) }
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
redis.call('SET', P .. 'a:' .. token, stamp, 'PX', token_ttl)
for scoring, waiting in pairs(lanes) do
  redis.call(unpack(waiting))
  redis.call('ZADD', P .. 'lanes', 'NX', int(now), (lanes_of(scoring)))
end
if fresh > 0 then redis.call(unpack(records)) end
for _, join in ipairs(order) do
  local flight, first_score = join[1], join[3]
  redis.call(unpack(joins[flight]))
  if not is_joined(flight) then
    -- The first to join: from now on the flight's first member is one of several.
    local past = redis.call('ZSCORE', P .. 'open', flight) == 'inf'
    redis.call('ZADD', P .. 'm:' .. flight, first_score, flight)
    redis.call('HSET', P .. 'joined', flight, past and int(now) or '0')
  end
end
if #keep > 1 then redis.call(unpack(keep)) end
if fresh > 0 then redis.call(unpack(open)) end
count_for_tenants(of_tenants, 1)
if #keep_flights > 1 then redis.call(unpack(keep_flights)) end
commit_ends(ended, ends, 'succeeded', result_ttl, idempotency_ttl)
redis.call('SET', P .. 'a:' .. token, reply, 'PX', token_ttl)
for _, join in ipairs(order) do
  reposition(join[1], join[2])
end
for scoring in pairs(lanes) do
  ring((lanes_of(scoring)), now)
end
limits.save()
count('accepted', fresh + #ended)
return { 'ok', reply, unfinished }
