-- Adds what one replica has learned to one state, once, and tells what it came to.
--
-- KEYS: the state, and the feedback that was counted in it, of late and before that.
--
-- The state is a hash: `schema`, `version` (how many parcels were ever added), `last` (whose the last
-- one was), `arm:NAME` (score, trials, past score, past trials, observations, loss) and
-- `clock:REPLICA` (the number of its last parcel, and when it came, in seconds). Feedback that was
-- counted is a hash from its id to the parcel that brought it.

local state, late, early = KEYS[1], KEYS[2], KEYS[3]
local at = 0
local function take()
  at = at + 1
  return ARGV[at]
end

local schema = take()
local replica = take()
local ttl = tonumber(take()) -- milliseconds; 0 for ever
local counted_for = tonumber(take()) -- milliseconds
local counted_most = tonumber(take())
local known_count, known_last = take(), take()
local all_clocks = take() == '1'
local span, memory, past_memory = tonumber(take()), tonumber(take()), tonumber(take())
local arms = {}
for i = 1, tonumber(take()) do
  arms[i] = take()
end

local FEW = 16 -- so many clocks are told each time
local PRUNE = 64 -- parcels after which clocks are looked through, where they are not told
local CLOCK_AGE = 604800 -- seconds after which a replica that was not heard of is forgotten
local ABSURD = 1e15
local STEP = 1000 -- arguments of one call at most
local SCORE, TRIALS, PAST_SCORE, PAST_TRIALS = 1, 2, 3, 4

local function numbers(text)
  local read = {}
  for word in string.gmatch(text, '%S+') do
    local number = tonumber(word)
    if not number or not (number < ABSURD and number > -ABSURD) then
      return nil
    end
    read[#read + 1] = number
  end
  return #read == 6 and read or nil
end

local function text(read)
  for i = 1, 6 do
    read[i] = string.format('%.17g', read[i])
  end
  return table.concat(read, ' ')
end

-- What is there.

local exists, broken, foreign = false, false, nil
local count, last, clock, learned = 0, '0:0', 0, {}
local kind = redis.call('TYPE', state)['ok']
if kind == 'hash' then
  local fields = { 'schema', 'version', 'last', 'clock:' .. replica }
  for i, arm in ipairs(arms) do
    fields[4 + i] = 'arm:' .. arm
  end
  local values = redis.call('HMGET', state, unpack(fields))
  exists = true
  if values[1] and values[1] ~= schema then
    foreign = values[1]
  end
  count = tonumber(values[2] or '')
  last = values[3] or '0:0'
  if values[4] then
    clock = tonumber(string.match(values[4], '^%d+'))
  end
  broken = not values[1] or not count or not clock
  for i = 1, #arms do
    local value = values[4 + i]
    learned[i] = value and numbers(value) or { 0, 0, 0, 0, 0, 0 }
    broken = broken or (value and not numbers(value))
  end
elseif kind ~= 'none' then
  broken = true
end
if foreign then
  return { 'foreign', foreign }
end

-- What it is to be at least.

local changed = false
local base_count = take()
if base_count ~= '' then
  local base_last = take()
  local base_arms = {}
  for i = 1, #arms do
    base_arms[i] = take()
  end
  local clocks = {}
  for _ = 1, tonumber(take()) do
    clocks[#clocks + 1] = take()
  end
  if broken or not exists or count < tonumber(base_count) then
    local now = redis.call('TIME')[1]
    redis.call('DEL', state)
    clock = 0
    for i = 1, #clocks, 2 do
      redis.call('HSET', state, 'clock:' .. clocks[i], clocks[i + 1] .. ' ' .. now)
      if clocks[i] == replica then
        clock = tonumber(clocks[i + 1])
      end
    end
    exists, broken, changed = true, false, true
    count, last = tonumber(base_count), base_last
    for i = 1, #arms do
      learned[i] = numbers(base_arms[i]) or { 0, 0, 0, 0, 0, 0 }
    end
  end
end
if broken then
  return { 'broken' }
end
if not exists then
  return { 'missing' }
end

-- What is new.

local count_before = count

local function rule()
  if span then
    local top = -math.huge
    for i = 1, #learned do
      top = math.max(top, learned[i][SCORE])
    end
    for i = 1, #learned do
      learned[i][SCORE] = math.max(learned[i][SCORE] - top, -span)
    end
  elseif memory then
    local trials = 0
    for i = 1, #learned do
      trials = trials + learned[i][TRIALS]
    end
    if trials > memory then
      for i = 1, #learned do
        learned[i][SCORE] = learned[i][SCORE] * memory / trials
        learned[i][TRIALS] = learned[i][TRIALS] * memory / trials
      end
    end
  end
  for i = 1, #learned do
    local arm = learned[i]
    if past_memory and arm[PAST_TRIALS] > past_memory then
      arm[PAST_SCORE] = arm[PAST_SCORE] * past_memory / arm[PAST_TRIALS]
      arm[PAST_TRIALS] = past_memory
    end
  end
end

local function ids_of(blob)
  local ids = {}
  for i = 1, #blob, 12 do
    ids[#ids + 1] = string.sub(blob, i, i + 11)
  end
  return ids
end

local function repeated(ids, brought)
  local places = {}
  for _, key in ipairs({ late, early }) do
    for from = 1, #ids, STEP do
      local to = math.min(from + STEP - 1, #ids)
      local found = redis.call('HMGET', key, unpack(ids, from, to))
      for i = 1, to - from + 1 do
        if found[i] and found[i] ~= brought then
          places[#places + 1] = from + i - 2
        end
      end
    end
  end
  return places
end

local function note(ids, brought)
  local before = redis.call('HLEN', late)
  if before > 0 and (before >= counted_most / 2 or redis.call('PTTL', late) < counted_for) then
    redis.call('RENAME', late, early)
    before = 0
  end
  for from = 1, #ids, STEP do
    local pairs = {}
    for i = from, math.min(from + STEP - 1, #ids) do
      pairs[#pairs + 1] = ids[i]
      pairs[#pairs + 1] = brought
    end
    redis.call('HSET', late, unpack(pairs))
  end
  if before == 0 then
    redis.call('PEXPIRE', late, 2 * counted_for)
  end
end

local refused, places = 0, {}
local after = tonumber(take())
local whole = clock >= after
local parcels = tonumber(take())
for _ = 1, parcels do
  local number, blob = tonumber(take()), take()
  local brought = replica .. ':' .. string.format('%.0f', number)
  local differences = {}
  for i = 1, #arms do
    differences[i] = numbers(take())
  end
  if whole and refused == 0 and number > clock then
    local ids = ids_of(blob)
    if #ids > 0 then
      for _, key in ipairs({ late, early }) do
        local found = redis.call('TYPE', key)['ok']
        if found ~= 'hash' and found ~= 'none' then
          redis.call('DEL', key)
        end
      end
      places = repeated(ids, brought)
    end
    if #places > 0 then
      refused = number
    else
      for i = 1, #arms do
        for j = 1, 6 do
          learned[i][j] = learned[i][j] + (differences[i] and differences[i][j] or 0)
        end
      end
      rule()
      if #ids > 0 then
        note(ids, brought)
      end
      clock, count, last, changed = number, count + 1, brought, true
    end
  end
end

if changed then
  local fields = { 'schema', schema, 'version', string.format('%.0f', count), 'last', last }
  if clock > 0 then
    fields[#fields + 1] = 'clock:' .. replica
    fields[#fields + 1] = string.format('%.0f', clock) .. ' ' .. redis.call('TIME')[1]
  end
  for i, arm in ipairs(arms) do
    fields[#fields + 1] = 'arm:' .. arm
    fields[#fields + 1] = text(learned[i])
  end
  redis.call('HSET', state, unpack(fields))
  if ttl > 0 then
    redis.call('PEXPIRE', state, ttl)
  end
elseif parcels == 0 and string.format('%.0f', count) == known_count and last == known_last and count > 0 then
  return { 'same' }
else
  for i = 1, #arms do
    learned[i] = text(learned[i])
  end
end

-- What it came to.

local clocks = false
local told = all_clocks or redis.call('HLEN', state) <= 3 + #arms + FEW
if told or math.floor(count / PRUNE) > math.floor(count_before / PRUNE) then
  clocks = {}
  local oldest = redis.call('TIME')[1] - CLOCK_AGE
  local fields = redis.call('HGETALL', state)
  for i = 1, #fields, 2 do
    local of = string.match(fields[i], '^clock:(.*)$')
    if of then
      local number, came = string.match(fields[i + 1], '^(%d+) (%d+)$')
      if number and tonumber(came) >= oldest then
        clocks[#clocks + 1] = of
        clocks[#clocks + 1] = number
      else
        redis.call('HDEL', state, fields[i])
      end
    end
  end
  clocks = told and clocks
end
for i = 1, #learned do
  if type(learned[i]) == 'table' then
    learned[i] = table.concat(learned[i], ' ')
  end
end
return {
  'state',
  string.format('%.0f', count),
  last,
  string.format('%.0f', clock),
  clocks,
  string.format('%.0f', refused),
  places,
  learned,
}
