-- Who may come in: what accept asks of each new request beyond the bounds that hold for all. O(1), or O(log n) where a
-- backlog is so long that the request's own place in it matters.

-- What lanes with a backlog do per second, as the leading sweeper has measured it: `LANE RATE` lines.
local function paces_of(text)
  local paces = {}
  for lane, rate in string.gmatch(text or '', '(%S+) (%S+)\n') do paces[lane] = tonumber(rate) end
  return paces
end

-- How long it takes to work off what stands before a score (without one: all that waits), in ms: at the slowest of the
-- three stages, whose backlog includes what the earlier ones still have to pass on. Stages without a pace don't count.
local function wait_ms(scoring, paces, score)
  local ahead, longest = 0, 0
  for _, lane in ipairs({ lanes_of(scoring) }) do
    local waiting = P .. 'q:' .. lane
    ahead = ahead + (score and redis.call('ZCOUNT', waiting, '-inf', '(' .. score) or redis.call('ZCARD', waiting))
    if paces[lane] then longest = math.max(longest, 1000 * ahead / paces[lane]) end
  end
  return longest
end

-- How much of a request's time may be taken by what stands before it, as estimated: estimates are a fifth wrong, about.
local FILL = 0.8

-- A refusal's code with a number of ms, in the 17 bytes of an answer.
local function refusal(code, ms) return code .. string.format('%016.0f', math.min(ms, 1e12)) end

-- Shares of tenants. every: ms between two requests of one (0: as many as it likes), a second's worth of which may come at
-- once (the generic cell rate algorithm, ITU-T I.371). most: its unfinished requests (0: any number).
local function make_shares(now, every, most)
  local shares = { due = {}, owned = {} }

  -- The refusal of one more request of this tenant, or nil. ended: it has its answer already.
  function shares.refuses(tenant, ended)
    if every > 0 then
      local due = shares.due[tenant] or tonumber(redis.call('HGET', P .. 'due', tenant) or '0')
      shares.due[tenant] = math.max(now, due)
      local early = shares.due[tenant] - now - math.max(0, 1000 - every)
      if early > 1 then return refusal('l', early) end -- ms: the least that the clock tells
    end
    if most > 0 and not ended then
      shares.owned[tenant] = shares.owned[tenant] or tonumber(redis.call('HGET', P .. 'owned', tenant) or '0')
      if shares.owned[tenant] >= most then return refusal('c', 1000) end
    end
  end

  -- It has come in. ended: with its answer, so that it is not unfinished.
  function shares.charge(tenant, ended)
    if every > 0 then shares.due[tenant] = shares.due[tenant] + every end
    if most > 0 and not ended then shares.owned[tenant] = shares.owned[tenant] + 1 end
  end

  function shares.keep()
    if every == 0 then return end
    for tenant, due in pairs(shares.due) do tell('HSET', P .. 'due', tenant, string.format('%.3f', due)) end
  end

  return shares
end
