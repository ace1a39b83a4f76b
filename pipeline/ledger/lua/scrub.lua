#!lua flags=allow-oom
-- Look at some keys, as SCAN gives them, for what scripts that were stopped on their way have left: what nothing would ever
-- clear away or bring to its end.
-- ARGV: result_ttl ms, idempotency_ttl ms, dead_max_age ms, then the keys.
-- Returns the ids of requests that have not ended and are not open either (see reopen), and incarnations that hold claims
-- although nobody knows them.
local now = now_ms()
local astray, holders = {}, {}

local function is_open(id) return redis.call('ZSCORE', P .. 'open', id) end
local function is_joined(flight) return redis.call('HEXISTS', P .. 'joined', flight) == 1 end
local function lives_on(key) return redis.call('PTTL', key) == -1 end

local function look_at_record(key, id)
  local record, open = redis.call('GET', key), is_open(id)
  local state = end_of(record)
  if state and open then
    local flight = flight_of(record) or id
    local ids, ends = { id }, { record }
    commit_ends(ids, ends, state, ARGV[1], ARGV[2], nil, function()
      if flight == id and not is_joined(id) then close_flights(ids, ends, now, nil) end
    end)
    if lives_on(key) then redis.call('PEXPIRE', key, ARGV[1]) end
  elseif state and lives_on(key) then
    redis.call('PEXPIRE', key, ARGV[1])
  elseif record and not state and not open and lives_on(key) then
    astray[#astray + 1] = id
  end
end

-- A joined flight whose members have all left without being told so is over.
local function look_at_members(key, flight)
  if not is_joined(flight) then return redis.call('DEL', key) end
  local members = redis.call('ZRANGE', key, 0, 127)
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

-- An output; that of a request which is astray is where it goes on.
local function look_at_output(key, flight)
  if not has_no_flight(flight) then return end
  local record = redis.call('GET', P .. 'r:' .. flight)
  if not record or end_of(record) then redis.call('DEL', key) end
end
local function drop_unless_joined(key, flight)
  if not is_joined(flight) then redis.call('DEL', key) end
end
local function drop_pointer(key)
  if lives_on(key) and has_no_flight(sub(redis.call('GET', key), 1, 16)) then redis.call('DEL', key) end
end
local function look_at_key(key)
  if not lives_on(key) then return end
  local id = sub(redis.call('GET', key), 1, 16)
  if is_open(id) then return end
  if end_of(redis.call('GET', P .. 'r:' .. id)) then
    redis.call('PEXPIRE', key, ARGV[2])
  else
    redis.call('DEL', key)
  end
end
local function look_at_claims(key, incarnation)
  if not redis.call('ZSCORE', P .. 'beats', incarnation) then holders[#holders + 1] = incarnation end
end
local function know_lane(_, lane) redis.call('ZADD', P .. 'lanes', 'NX', int(now), lane) end
local function lives_at_most(ms)
  return function(key)
    if lives_on(key) then redis.call('PEXPIRE', key, ms) end
  end
end

local LOOK = {
  r = look_at_record, o = look_at_output, f = drop_pointer, k = look_at_key,
  m = look_at_members, i = drop_unless_joined, e = drop_unless_joined,
  c = look_at_claims, q = know_lane,
  d = lives_at_most(ARGV[3]), dm = lives_at_most(ARGV[3]),
  wake = lives_at_most(5000), idle = lives_at_most(5000),
  kept = lives_at_most(ARGV[2]), again = lives_at_most(60000),
}
for n = 4, #ARGV do
  local kind, name = string.match(sub(ARGV[n], #P + 1), '^(%l+):(.*)$')
  if kind and LOOK[kind] then
    local ok, reason = pcall(LOOK[kind], ARGV[n], name)
    -- One that nobody can read must not keep the others from their ends. What may not be done at all, is told.
    if not ok and string.find(type(reason) == 'table' and reason.err or reason, 'permission', 1, true) then error(reason, 0) end
  end
end
return { astray, holders }
