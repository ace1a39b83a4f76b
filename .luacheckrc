-- How `make test-system` lints the ledger's scripts. Each file is a part of one text: the constants, the prelude and a
-- script (see pipeline/ledger/scripts.py). So what one file defines at its top level, others see.
std = 'lua51'
max_line_length = 120
read_globals = { 'redis', 'cjson', 'KEYS', 'ARGV', 'BELL', 'CHANNEL' }

local function text_of(path)
  local file = assert(io.open(path))
  local text = file:read('*a')
  file:close()
  return text
end

for name in text_of('pipeline/ledger/constants.py'):gmatch('\n    "([%u_]+)": ') do
  table.insert(read_globals, name)
end
for _, part in ipairs({ 'base', 'flights', 'ends', 'lanes', 'admission' }) do
  local path = 'pipeline/ledger/lua/prelude/' .. part .. '.lua'
  -- tests/lint finds what no script uses: here it is not known.
  files[path] = { ignore = { '211', '231' } }
  for line in ('\n' .. text_of(path)):gmatch('\nlocal ([^\n]+)') do
    local names = line:match('^function ([%w_]+)') or line:match('^([%w_, ]+)')
    for name in names:gmatch('[%w_]+') do
      table.insert(read_globals, name)
    end
  end
end
