#!lua flags=allow-oom
-- Claims the next batch of a lane, in answer to a bell or a wake.
-- Returns {'fenced'}, {'empty'}, or {'batch', now (ms), field, ids, scores, blobs, attempts}.
local incarnation = ARGV[1]
local field = ARGV[2] -- of its claims, for this batch
local lane = ARGV[3]
local limit = ARGV[4] -- requests
local answers_bell = ARGV[5] == '1'

if answers_bell then best_effort('SREM', P .. 'rung', lane) end
if fenced(incarnation) then return { 'fenced' } end
local batch = take(incarnation, field, lane, limit, now_ms())
if not batch then return { 'empty' } end
return { 'batch', unpack(batch) }
