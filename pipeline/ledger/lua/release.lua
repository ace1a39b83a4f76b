#!lua flags=allow-oom
-- Give claimed batches back to their lanes, with the scores they had, and ring.
-- ARGV: incarnation, prefix of the fields ('' for all), charge ('start', 'loss' or 'none'), error, signal ('' if none),
--       older than ms (0: any age), fence ('1': the incarnation is dead for ever), silent for ms (0: don't ask),
--       category of the failure, the field that was running ('' if any may have been: charge all; else the others never
--       began), queue ('' or: take its lingerers of that prefix off).
-- Returns the number of requests released, or -1 if the incarnation has beaten within `silent for`.
local incarnation, prefix, charge, reason, signal = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local now = now_ms()
if tonumber(ARGV[8]) > 0 then
  local beat = redis.call('ZSCORE', P .. 'beats', incarnation)
  if beat and tonumber(beat) > 0 and now - tonumber(beat) < tonumber(ARGV[8]) then return -1 end
end
if ARGV[7] == '1' then redis.call('ZADD', P .. 'beats', int(-now), incarnation) end

local claims = P .. 'c:' .. incarnation
local fields = redis.call('HGETALL', claims)
local released = 0
if ARGV[11] ~= '' then -- first: or another script would claim for who is gone
  local idle, name = P .. 'idle:' .. ARGV[11], incarnation .. ' ' .. prefix
  for _, entry in ipairs(redis.call('LRANGE', idle, 0, -1)) do
    if string.sub(entry, 1, #name) == name then redis.call('LREM', idle, 0, entry) end
  end
end
for f = 1, #fields, 2 do
  local lane, ms, scores, ids = string.match(fields[f + 1], '^([^|]*)|([^|]*)|([^|]*)|(.*)$')
  if string.sub(fields[f], 1, #prefix) == prefix and now - tonumber(ms) >= tonumber(ARGV[6]) then
    redis.call('HDEL', claims, fields[f])
    local charged = ARGV[10] == '' or ARGV[10] == fields[f]
    audit('what', 'released', 'incarnation', incarnation, 'field', fields[f], 'charge', charged and charge or 'none')
    local stage = string.match(lane, '^%l+')
    local place = 0
    for score in string.gmatch(scores, '[^,]+') do
      local id = string.sub(ids, place * 16 + 1, place * 16 + 16)
      place = place + 1
      if wanted_of({ id })[1] then
        released = released + 1
        redis.call('ZADD', P .. 'q:' .. lane, waiting_score(id, score), id)
        if stage == 'scoring' then uncommit(id, score) end
        local a = attempts_of(redis.call('HGET', P .. 'attempts', id))
        if charge ~= 'none' and charged then
          -- Evidence makes a suspect at once; a vanished worker only the second time.
          if charge == 'start' then
            a.starts = a.starts + 1
            a.suspect = true
          else
            a.losses = a.losses + 1
            a.suspect = a.suspect or a.losses >= 2
          end
          local entry = { n = a.starts + a.losses, at = now, stage = stage, error = reason, category = ARGV[9] }
          if signal ~= '' then entry.signal = signal end
          table.insert(a.errors, entry)
          if #a.errors > 20 then table.remove(a.errors, 1) end
        end
        -- Written even if nothing is charged: what has been claimed once is not seen as queued again.
        redis.call('HSET', P .. 'attempts', id, cjson.encode(a))
      end
    end
    count(stage .. ':released', place)
    if charge ~= 'none' and charged then count('failed:' .. stage .. ':' .. ARGV[9], place) end
    ring(lane, now)
  end
end
return released
