-- Work for LuaJIT: loops that its compiler turns into code, tables, strings, coroutines, calls of C and back.
local bit = require("bit")

local function sieve(n)
  local t, count = {}, 0
  for i = 2, n do t[i] = true end
  for i = 2, n do
    if t[i] then
      count = count + 1
      for k = i * i, n, i do t[k] = false end
    end
  end
  return count
end
print("sieve", sieve(200000))

local function hash(n)
  local h = 0x811c9dc5
  for i = 1, n do
    h = bit.bxor(h, bit.band(i, 255))
    h = bit.tobit(bit.bxor(bit.lshift(h, 5), bit.rshift(h, 3), i))
    h = bit.rol(h, i % 31)
  end
  return bit.tohex(h)
end
print("hash", hash(2000000))

local function mandelbrot(n)
  local inside = 0
  for y = 0, n - 1 do
    for x = 0, n - 1 do
      local cr, ci, zr, zi, k = 2 * x / n - 1.5, 2 * y / n - 1, 0, 0, 0
      while k < 50 and zr * zr + zi * zi < 4 do
        zr, zi, k = zr * zr - zi * zi + cr, 2 * zr * zi + ci, k + 1
      end
      if k == 50 then inside = inside + 1 end
    end
  end
  return inside
end
print("mandelbrot", mandelbrot(120))

local words = {}
for i = 1, 20000 do
  local w = string.format("%x", i * 7919 % 4096)
  words[w] = (words[w] or 0) + 1
end
local keys = {}
for k in pairs(words) do keys[#keys + 1] = k end
table.sort(keys)
print("words", #keys, keys[1], keys[#keys], words[keys[1]])

local function gen(n)
  return coroutine.wrap(function()
    local a, b = 0, 1
    for _ = 1, n do
      coroutine.yield(a)
      a, b = b, (a + b) % 1000007
    end
  end)
end
local sum = 0
for v in gen(20000) do sum = (sum * 3 + v) % 1000003 end
print("coroutine", sum)

local ffi = require("ffi")
ffi.cdef [[ void qsort(void *, size_t, size_t, int (*)(const int *, const int *)); ]]
local n = 3000
local a = ffi.new("int[?]", n)
local s = 1
for i = 0, n - 1 do
  s = (s * 16807) % 2147483647
  a[i] = s % 100000
end
local calls = 0
local cb = ffi.cast("int (*)(const int *, const int *)", function(x, y) calls = calls + 1; return x[0] - y[0] end)
ffi.C.qsort(a, n, 4, cb)
cb:free()
local sorted = true
for i = 1, n - 1 do sorted = sorted and a[i - 1] <= a[i] end
print("qsort", sorted, a[0], a[n - 1], calls > n)

-- Many small functions, each hot: much code is made and thrown away.
local total = 0
for i = 1, 150 do
  local f = loadstring("local s, n = 0, ... for i = 1, n do s = (s * " .. (i % 7 + 2) .. " + i) % 65521 end return s")
  total = (total + f(300 + i)) % 65521
end
print("functions", total)
local parts = {}
for i = 1, 3000 do parts[i] = ("%d:%s"):format(i, ("ab"):rep(i % 5)) end
local text = table.concat(parts, ",")
local _, found = text:gsub("abab", "")
print("strings", #text, found, select(2, text:gsub("%d+:", "")))
