-- The data base's load: inserts, an index, a join, groups, text, a window, updates; all in memory.
CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT, town INTEGER, age INTEGER);
CREATE TABLE town (id INTEGER PRIMARY KEY, name TEXT);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
    INSERT INTO town SELECT i, 'town ' || i FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
    INSERT INTO person SELECT i, 'person ' || (i * 7919 % 30011), i * 31 % 200 + 1, i * 17 % 90 FROM n;
COMMIT;
CREATE INDEX person_name ON person (name);
SELECT town.name, count(*), avg(age) FROM person JOIN town ON town.id = person.town GROUP BY town.id ORDER BY 3 DESC, 1 LIMIT 5;
SELECT count(*) FROM person WHERE name LIKE '%77%';
SELECT sum(length(a.name)) FROM person a JOIN person b ON b.name = 'person ' || (a.id % 30011) WHERE a.age > 40;
SELECT max(r) FROM (SELECT row_number() OVER (PARTITION BY town ORDER BY age, id) AS r FROM person);
UPDATE person SET age = age + 1 WHERE town % 3 = 0;
SELECT sum(age), min(name), max(name) FROM person;
