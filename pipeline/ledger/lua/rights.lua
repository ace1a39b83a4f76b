#!lua flags=allow-oom
-- Asks the server whether it takes writes, and which calls its user may not make; none of them is made.
-- Returns the numbers of those that are refused, negative if the server does not know the command. An error where it
-- takes no writes.
local FIRST = 1 -- calls, their words separated by spaces, each whole: Valkey 9.1 dies of one that lacks arguments

local refused = {}
for number = FIRST, #ARGV do
  local words = {}
  for word in string.gmatch(ARGV[number], '%S+') do
    words[#words + 1] = word
  end
  local known, allowed = pcall(redis.acl_check_cmd, unpack(words))
  if not known then
    refused[#refused + 1] = -number
  elseif not allowed then
    refused[#refused + 1] = number
  end
end
if #refused == 0 then redis.call('SET', P .. 'confirm', '') end
return refused
