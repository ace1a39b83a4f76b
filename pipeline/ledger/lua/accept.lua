-- Accept requests: record, waiting entry, deadline and bell, or nothing at all.
-- ARGV: epoch, max_waiting, then five for each request: id tail (10 bytes), lane, priority, timeout_ms, record.
-- Returns {'stale'} (the releases changed: resolve again), {'memory'} (the store's is nearly used up: what is accepted
-- needs the rest), {'full', unfinished}, or {'ok', id...}.
local known = redis.call('MGET', P .. 'epoch', P .. 'full')
if (known[1] or '0') ~= ARGV[1] then return { 'stale' } end
if known[2] then return { 'memory' } end
local unfinished = redis.call('ZCARD', P .. 'open')
local requests = (#ARGV - 2) / 5
if unfinished + requests > tonumber(ARGV[2]) then return { 'full', unfinished } end

local now = now_ms()
local stamp = ''
local rest = now
for _ = 1, 6 do
  stamp = string.char(rest % 256) .. stamp
  rest = math.floor(rest / 256)
end

local reply, records, open, lanes = { 'ok' }, { 'MSET' }, { 'ZADD', P .. 'open' }, {}
for i = 3, #ARGV, 5 do
  local id, lane, deadline = stamp .. ARGV[i], ARGV[i + 1], now + ARGV[i + 3]
  reply[#reply + 1] = id
  records[#records + 1] = P .. 'r:' .. id
  records[#records + 1] = ARGV[i + 4]
  open[#open + 1] = int(deadline)
  open[#open + 1] = id
  local waiting = lanes[lane]
  if not waiting then
    waiting = { 'ZADD', P .. 'q:' .. lane }
    lanes[lane] = waiting
  end
  waiting[#waiting + 1] = int(ARGV[i + 2] * 8796093022208 + deadline) -- waiting_score()
  waiting[#waiting + 1] = id
end
redis.call(unpack(records))
redis.call(unpack(open))
for lane, waiting in pairs(lanes) do
  redis.call(unpack(waiting))
  redis.call('ZADD', P .. 'lanes', 'NX', int(now), lane)
  ring(lane)
end
count('accepted', requests)
return reply
