-- Accept requests: record, waiting entry, deadline and bell; or the request that the idempotency key stands for.
-- ARGV: epoch, max_waiting, receipt (16 random bytes), its life in ms, then six for each request: id tail (10 bytes), lane,
--       priority, timeout_ms, record, and its idempotency key with the digest of its body (16 bytes each; '' without).
-- Returns {'stale'} (the releases changed: resolve again), or {'ok', answers, unfinished}: for each request 17 bytes, a
-- letter and an id: n new, o old (the key is known), m mismatch (the key is known, with another body), f full (as many
-- wait as may), s short of memory. Refusals store nothing.
-- The same receipt gives the same answers: who did not hear them sends again.
local known = redis.call('MGET', P .. 'epoch', P .. 'full', P .. 'a:' .. ARGV[3])
if known[3] then return { 'ok', known[3], 0 } end
if (known[1] or '0') ~= ARGV[1] then return { 'stale' } end

local by_key, keys = {}, {}
for i = 10, #ARGV, 6 do
  if ARGV[i] ~= '' then keys[#keys + 1] = P .. 'k:' .. string.sub(ARGV[i], 1, 16) end
end
if #keys > 0 then
  local held = redis.call('MGET', unpack(keys))
  for i, key in ipairs(keys) do by_key[key] = held[i] end
end

local now = now_ms()
local stamp = ''
local rest = now
for _ = 1, 6 do
  stamp = string.char(rest % 256) .. stamp
  rest = math.floor(rest / 256)
end

local unfinished = redis.call('ZCARD', P .. 'open')
local room = tonumber(ARGV[2]) - unfinished
local none = string.rep('\0', 16)
local answers, records, open, held, lanes = {}, { 'MSET' }, { 'ZADD', P .. 'open' }, { 'MSET' }, {}
for i = 5, #ARGV, 6 do
  local key = ARGV[i + 5] ~= '' and P .. 'k:' .. string.sub(ARGV[i + 5], 1, 16)
  local old = key and by_key[key]
  if old then
    local same = string.sub(old, 17) == string.sub(ARGV[i + 5], 17)
    answers[#answers + 1] = same and 'o' .. string.sub(old, 1, 16) or 'm' .. none
  elseif known[2] then
    answers[#answers + 1] = 's' .. none
  elseif room <= 0 then
    answers[#answers + 1] = 'f' .. none
  else
    room = room - 1
    local id, lane, deadline = stamp .. ARGV[i], ARGV[i + 1], now + ARGV[i + 3]
    answers[#answers + 1] = 'n' .. id
    records[#records + 1] = P .. 'r:' .. id
    records[#records + 1] = ARGV[i + 4]
    open[#open + 1] = int(deadline)
    open[#open + 1] = id
    if key then
      by_key[key] = id .. string.sub(ARGV[i + 5], 17)
      held[#held + 1] = key
      held[#held + 1] = by_key[key]
    end
    local waiting = lanes[lane]
    if not waiting then
      waiting = { 'ZADD', P .. 'q:' .. lane }
      lanes[lane] = waiting
    end
    waiting[#waiting + 1] = int(ARGV[i + 2] * 8796093022208 + deadline) -- waiting_score()
    waiting[#waiting + 1] = id
  end
end

local reply = table.concat(answers)
if #records > 1 then
  redis.call(unpack(records))
  redis.call(unpack(open))
  if #held > 1 then redis.call(unpack(held)) end
  for lane, waiting in pairs(lanes) do
    redis.call(unpack(waiting))
    redis.call('ZADD', P .. 'lanes', 'NX', int(now), lane)
    ring(lane, now)
  end
  redis.call('SET', P .. 'a:' .. ARGV[3], reply, 'PX', ARGV[4])
  count('accepted', (#records - 1) / 2)
end
return { 'ok', reply, unfinished }
