#!lua flags=allow-oom
-- Checks some keys, as SCAN gives them, for what scripts that were stopped have left: what nothing would ever remove or
-- bring to its end.
-- Returns orphans - requests that have not ended and are not open either (see reopen) - and incarnations that hold
-- claims although they are unknown.
local result_ttl = ARGV[1] -- ms
local idempotency_ttl = ARGV[2] -- ms
local dead_max_age = ARGV[3] -- ms
local FIRST = 4 -- then keys

local now = now_ms()
local orphans, holders = {}, {}

local function is_open(id) return redis.call('ZSCORE', P .. 'open', id) end
local function never_expires(key) return redis.call('PTTL', key) == -1 end

local function check_record(key, id)
  local record, open = redis.call('GET', key), is_open(id)
  local state = end_of(record)
  if state and open then
    local flight = flight_of(record) or id
    local ids, ends = { id }, { record }
    commit_ends(ids, ends, state, result_ttl, idempotency_ttl, nil, function()
      if flight == id and not is_joined(id) then close_flights(ids, ends, now, nil) end
    end)
    if never_expires(key) then redis.call('PEXPIRE', key, result_ttl) end
  elseif state and never_expires(key) then
    redis.call('PEXPIRE', key, result_ttl)
  elseif record and not state and not open and never_expires(key) then
    orphans[#orphans + 1] = id
  end
end

-- A joined flight is over when its members have all left, even if a script was stopped before it could write that.
local function check_members(key, flight)
  if not is_joined(flight) then return redis.call('DEL', key) end
  local members = redis.call('ZRANGE', key, 0, SCRIPT_LIMIT - 1)
  local gone = {}
  for i, open in ipairs(redis.call('ZMSCORE', P .. 'open', unpack(members))) do
    if not open then gone[#gone + 1] = members[i] end
  end
  if #gone == 0 then return end
  if #gone == redis.call('ZCARD', key) then
    local record = redis.call('GET', P .. 'r:' .. flight)
    close_flights(record and { flight } or {}, { record }, now, nil)
    forget_joined(flight)
  else
    redis.call('ZREM', key, unpack(gone))
  end
end

local function has_no_flight(flight) return not is_open(flight) and not is_joined(flight) end

-- An output of a flight that is over. That of an orphan is kept: the request goes on from there.
local function check_output(key, flight)
  if not has_no_flight(flight) then return end
  local record = redis.call('GET', P .. 'r:' .. flight)
  if not record or end_of(record) then redis.call('DEL', key) end
end
local function drop_unless_joined(key, flight)
  if not is_joined(flight) then redis.call('DEL', key) end
end
local function drop_pointer(key)
  if never_expires(key) and has_no_flight(sub(redis.call('GET', key), 1, ID_BYTES)) then redis.call('DEL', key) end
end
local function check_key(key)
  if not never_expires(key) then return end
  local id = sub(redis.call('GET', key), 1, ID_BYTES)
  if is_open(id) then return end
  if end_of(redis.call('GET', P .. 'r:' .. id)) then
    redis.call('PEXPIRE', key, idempotency_ttl)
  else
    redis.call('DEL', key)
  end
end
local function check_claims(_, incarnation)
  if not redis.call('ZSCORE', P .. 'beats', incarnation) then holders[#holders + 1] = incarnation end
end
local function add_lane(_, lane) redis.call('ZADD', P .. 'lanes', 'NX', int(now), lane) end
local function limit_ttl(ms)
  return function(key)
    if never_expires(key) then redis.call('PEXPIRE', key, ms) end
  end
end

local CHECKS = {
  r = check_record,
  o = check_output,
  f = drop_pointer,
  k = check_key,
  m = check_members,
  i = drop_unless_joined,
  e = drop_unless_joined,
  c = check_claims,
  q = add_lane,
  d = limit_ttl(dead_max_age),
  dm = limit_ttl(dead_max_age),
  wake = limit_ttl(WAKE_TTL_MS),
  idle = limit_ttl(IDLE_TTL_MS),
  kept = limit_ttl(idempotency_ttl),
  again = limit_ttl(AGAIN_TTL_MS),
}
for n = FIRST, #ARGV do
  local kind, name = string.match(sub(ARGV[n], #P + 1), '^(%l+):(.*)$')
  if kind and CHECKS[kind] then
    local ok, reason = pcall(CHECKS[kind], ARGV[n], name)
    -- A key that cannot be read must not keep the others from their ends. A missing right is an error.
    local text = type(reason) == 'table' and reason.err or reason
    if not ok and string.find(text, 'permission', 1, true) then error(reason, 0) end
  end
end
return { orphans, holders }
