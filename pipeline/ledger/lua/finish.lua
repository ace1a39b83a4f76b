#!lua flags=allow-oom
-- End requests from outside a worker: deadlines that passed, and cancelling.
-- ARGV: result_ttl ms, idempotency_ttl ms, state, '1' to end only those past their deadline, then five for each request:
--       id, its preprocess lane, its scoring lane, its record as ended, its idempotency key and body digest or ''.
-- Returns, for each: 1 ended now, 0 not (ended before, or scoring has claimed it).
local now = now_ms()
local reply, ids, ends, held = {}, {}, {}, {}
for i = 5, #ARGV, 5 do
  local id = ARGV[i]
  local deadline = tonumber(redis.call('ZSCORE', P .. 'open', id) or '+inf')
  local endable = deadline ~= math.huge and (ARGV[4] ~= '1' or deadline <= now)
  reply[#reply + 1] = endable and 1 or 0
  if endable then
    redis.call('ZREM', P .. 'q:' .. ARGV[i + 1], id)
    redis.call('ZREM', P .. 'q:' .. ARGV[i + 2], id)
    ids[#ids + 1] = id
    ends[#ends + 1] = ARGV[i + 3]
    held[#held + 1] = ARGV[i + 4]
  end
end
commit_ends(ids, ends, held, ARGV[1], ARGV[2])
count(ARGV[3], #ids)
return reply
