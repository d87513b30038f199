"""The compare-and-set that every write goes through, for Redis 6.2 and later."""

from feature_repo.stores.packed.layout import HEADER

BATCH_ROWS = 500
"""Rows per script call: the server does nothing else meanwhile, about a millisecond."""

HEADER_BYTES = 8 * len(HEADER)

WRITE_NEWER = f"""\
local call, unpack_struct, written = redis.call, struct.unpack, 0
local seconds = ARGV[1]
for i = 1, #KEYS do
  local key, row = KEYS[i], ARGV[i + 1]
  local old = call('GETRANGE', key, 0, {HEADER_BYTES - 1})
  local is_newer = #old < {HEADER_BYTES}
  if not is_newer then
    local layout, event, known = unpack_struct('<c8i8i8', row)
    local old_layout, old_event, old_known = unpack_struct('<c8i8i8', old)
    if layout == old_layout then
      is_newer = event > old_event or (event == old_event and known > old_known)
    else
      is_newer = event >= old_event
    end
  end
  if is_newer then
    if seconds == '' then call('SET', key, row) else call('SET', key, row, 'EX', seconds) end
    written = written + 1
  end
end
return written
"""
# Numbers in Lua are doubles: microseconds are exact until the year 2255.
# A row of another layout cannot be read, so one of the same event time replaces it; an older one never does.
