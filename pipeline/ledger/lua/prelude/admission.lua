-- What accept asks of each new request beyond the bounds that hold for all. O(1), or O(log n) where a backlog is so
-- long that the request's own place in it matters.

-- The rates of lanes with a backlog (requests per second), as the leading sweeper has measured them: `LANE RATE` lines.
local function rates_of(text)
  local rates = {}
  for lane, rate in string.gmatch(text or '', '(%S+) (%S+)\n') do
    rates[lane] = tonumber(rate)
  end
  return rates
end

-- The estimated time (ms) to finish what waits before a score; without one, all that waits. It is that of the slowest
-- of the three stages, whose backlog includes what the earlier ones have yet to pass on. Stages without a rate don't
-- count.
local function estimated_wait_ms(scoring, rates, score)
  local ahead, longest = 0, 0
  for _, lane in ipairs({ lanes_of(scoring) }) do
    local waiting = P .. 'q:' .. lane
    ahead = ahead + (score and redis.call('ZCOUNT', waiting, '-inf', '(' .. score) or redis.call('ZCARD', waiting))
    if rates[lane] then longest = math.max(longest, 1000 * ahead / rates[lane]) end
  end
  return longest
end

-- A refusal: a code, and a number of ms in the 16 bytes that an id would take.
local function refusal(code, ms) return code .. string.format('%016.0f', math.min(ms, 1e12)) end

-- The limits of tenants. interval_ms: between two requests of one tenant (0: no limit), a second's worth of which may
-- come at once (the generic cell rate algorithm, ITU-T I.371). max_unfinished: requests of one tenant (0: no limit).
local function make_tenant_limits(now, interval_ms, max_unfinished)
  local limits, due, unfinished = {}, {}, {}

  -- The refusal of one more request of this tenant, or nil. ended: it has its answer already.
  function limits.refuses(tenant, ended)
    if interval_ms > 0 then
      due[tenant] = math.max(now, due[tenant] or tonumber(redis.call('HGET', P .. 'due', tenant) or '0'))
      local early_ms = due[tenant] - now - math.max(0, 1000 - interval_ms)
      if early_ms > 1 then return refusal('l', early_ms) end -- the clock's own step is 1 ms
    end
    if max_unfinished > 0 and not ended then
      unfinished[tenant] = unfinished[tenant] or tonumber(redis.call('HGET', P .. 'owned', tenant) or '0')
      if unfinished[tenant] >= max_unfinished then return refusal('c', 0) end
    end
  end

  -- Counts a request that is accepted. ended: with its answer, so that it is not unfinished.
  function limits.charge(tenant, ended)
    if interval_ms > 0 then due[tenant] = due[tenant] + interval_ms end
    if max_unfinished > 0 and not ended then unfinished[tenant] = unfinished[tenant] + 1 end
  end

  -- Writes when each tenant's next request is due.
  function limits.save()
    if interval_ms == 0 then return end
    for tenant, due_ms in pairs(due) do
      best_effort('HSET', P .. 'due', tenant, string.format('%.3f', due_ms))
    end
  end

  return limits
end
