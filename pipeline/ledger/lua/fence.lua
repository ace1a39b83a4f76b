#!lua flags=allow-oom
-- Fences those of these incarnations that have been silent for too long: all of them, before any one's claims are
-- released to another that is dead as well. Returns those that are fenced now.
local silent_ms = tonumber(ARGV[1])
local FIRST = 2 -- then incarnations

local now, fenced_now = now_ms(), {}
for i = FIRST, #ARGV do
  local beat = tonumber(redis.call('ZSCORE', P .. 'beats', ARGV[i]) or '0')
  if beat > 0 and now - beat >= silent_ms then
    redis.call('ZADD', P .. 'beats', int(-now), ARGV[i])
    fenced_now[#fenced_now + 1] = ARGV[i]
  end
end
return fenced_now
