#!lua flags=allow-oom
-- Fence those of these incarnations that have not beaten for so long: all of them, before any one's claims are released to
-- another that is dead as well. ARGV: silent for ms, then incarnations. Returns those that are fenced now.
local now, silent = now_ms(), {}
for i = 2, #ARGV do
  local beat = tonumber(redis.call('ZSCORE', P .. 'beats', ARGV[i]) or '0')
  if beat > 0 and now - beat >= tonumber(ARGV[1]) then
    redis.call('ZADD', P .. 'beats', int(-now), ARGV[i])
    silent[#silent + 1] = ARGV[i]
  end
end
return silent
