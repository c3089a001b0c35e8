# The interpreter's load: objects, dictionaries, strings, lists, closures, exceptions, generators.


class Account:
    def __init__(self, name):
        self.name = name
        self.balance = 0

    def move(self, amount):
        if self.balance + amount < 0:
            raise ValueError(self.name)
        self.balance += amount


def primes(limit):
    sieve = bytearray([1]) * limit
    for i in range(2, limit):
        if sieve[i]:
            yield i
            for k in range(i * i, limit, i):
                sieve[k] = 0


def words(count):
    state = 12345
    for _ in range(count):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        yield "w%x" % (state >> 19)


accounts = [Account("a%d" % i) for i in range(100)]
refused = 0
for i in range(150000):
    try:
        accounts[i % 100].move((i * 7919) % 1000 - 450)
    except ValueError:
        refused += 1

counts = {}
for word in words(150000):
    counts[word] = counts.get(word, 0) + 1
common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]

text = " ".join("%d:%s" % (n, w) for w, n in common)
total = sum(p for p in primes(300000))
print(refused, sum(a.balance for a in accounts), text.upper(), total)
