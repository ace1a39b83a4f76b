#!lua flags=allow-oom
-- Claim the next batch of a lane, in answer to a bell or a wake.
-- ARGV: incarnation, field, lane, limit, '1' if this answers a bell.
-- Returns {'fenced'}, {'empty'}, or {'batch', now, field, ids, scores, blobs, attempts}.
local incarnation, field, lane, limit = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if ARGV[5] == '1' then tell('SREM', P .. 'rung', lane) end
if fenced(incarnation) then return { 'fenced' } end
local batch = take(incarnation, field, lane, limit, now_ms())
if not batch then return { 'empty' } end
return { 'batch', unpack(batch) }
