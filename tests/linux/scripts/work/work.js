// Work for Node.js: functions that its compilers turn into code, once again when types change; typed arrays, strings, garbage.
'use strict';
const crypto = (() => { try { return require('crypto'); } catch (e) { return null; } })();

function hash(n, m) {
  let h = 0x811c9dc5 | 0;
  for (let i = 0; i < n; i++) h = Math.imul(h ^ (i & m), 0x01000193);
  return h >>> 0;
}
console.log('hash', hash(3000000, 255), hash(100000, 65535));

function add(a, b) { return a + b; }
let s = 0;
for (let i = 0; i < 200000; i++) s = add(s, i % 7);
let t = 0;
for (let i = 0; i < 200000; i++) t = add(t, i * 0.5);
let u = '';
for (let i = 0; i < 2000; i++) u = add(u, i);
console.log('types', s, t, u.length);

const a = new Float64Array(300 * 300);
for (let i = 0; i < a.length; i++) a[i] = (i * 7919) % 1000;
let trace = 0;
for (let i = 0; i < 300; i++) for (let k = 0; k < 300; k++) trace += a[i * 300 + k] * a[k * 300 + i];
console.log('matrix', trace);

const map = new Map();
let seed = 1;
for (let i = 0; i < 100000; i++) {
  seed = (seed * 16807) % 2147483647;
  const k = (seed % 5000).toString(36);
  map.set(k, (map.get(k) || 0) + 1);
}
const keys = [...map.keys()].sort();
console.log('map', keys.length, keys[0], keys[keys.length - 1], map.get(keys[17]));
console.log('bigint', (2n ** 521n - 1n).toString().slice(-20));
let live = [];
for (let i = 0; i < 300000; i++) { live.push({ i, t: 'x' + i }); if (live.length > 1000) live = live.slice(900); }
console.log('garbage', live.length, live[live.length - 1].t);
console.log('pattern', 'the quick brown fox '.repeat(2000).replace(/(\w+) (\w+)/g, '$2 $1').length);
const make = [];
for (let i = 0; i < 300; i++) make.push(new Function('n', `let s = ${i}; for (let i = 0; i < n; i++) s = (s * ${i % 9 + 2} + i) % 65521; return s;`));
console.log('functions', make.reduce((x, f) => (x + f(3000)) % 65521, 0));
if (crypto) console.log('sha256', crypto.createHash('sha256').update('x'.repeat(100000)).digest('hex').slice(0, 16));
