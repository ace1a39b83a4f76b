#!lua flags=allow-oom
-- Stand on ('join', as join() says) or leave ('leave') a queue's list of lingering workers. Or pass a lane on ('pass'):
-- ring it though nothing may wait there, unless somebody lingers in its queue.
-- ARGV: which of them, the entry (see join) or for 'pass' the lane.
-- join returns as join() does. leave returns 1, or 0 if a wake is under way (take it).
if ARGV[1] == 'join' then return join(ARGV[2]) end
if ARGV[1] == 'pass' then
  local lane = ARGV[2]
  if redis.call('EXISTS', P .. 'idle:' .. string.match(lane, '^[^/]+')) == 0 then ring(lane, now_ms()) end
  return 1
end
return redis.call('LREM', P .. 'idle:' .. string.match(ARGV[2], ' ([^/ ]+)/%S+$'), 0, ARGV[2])
