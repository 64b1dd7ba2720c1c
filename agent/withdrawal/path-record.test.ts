import { test } from 'tap';
import { createPathRecord } from './path-record.ts';

const NODES = Array.from({ length: 10 }, (_, index) => `n${index}`);
const silent = { asked: ['a'], answered: [], known: 1 };
const answered = { asked: ['a'], answered: ['a'], known: 1 };

test('three rounds without an answer are death, one answer is life', async (t) => {
  const record = createPathRecord<string>();
  t.same(record.verdict(), { kind: 'unknown' });
  record.note(silent);
  record.note(silent);
  t.same(record.verdict(), { kind: 'unknown' });
  record.note(answered);
  t.same(record.verdict(), { kind: 'alive' });
  record.note(silent);
  record.note({ asked: ['b', 'c'], answered: [], known: 3 });
  t.same(record.verdict(), { kind: 'alive' });
  record.note(silent);
  t.same(record.verdict(), { kind: 'dead', nodesAsked: 3 });
});

test('what was dead must answer in three rounds in a row', async (t) => {
  const record = createPathRecord<string>();
  for (let round = 0; round < 3; round += 1) record.note(silent);
  record.note(answered);
  record.note(answered);
  t.equal(record.verdict().kind, 'dead');
  record.note(silent);
  record.note(answered);
  record.note(answered);
  t.equal(record.verdict().kind, 'dead');
  record.note(answered);
  t.equal(record.verdict().kind, 'alive');
});

test('a cluster without nodes is dead by the same rule', async (t) => {
  const record = createPathRecord<string>();
  for (let round = 0; round < 3; round += 1) record.note({ asked: [], answered: [], known: 0 });
  t.same(record.verdict(), { kind: 'dead', nodesAsked: 0 });
});

test('a large cluster is dead only when many of its nodes were asked in vain', async (t) => {
  const record = createPathRecord<string>();
  for (let round = 0; round < 8; round += 1) {
    record.note({ asked: [NODES[round] ?? ''], answered: [], known: 1000 });
    t.equal(record.verdict().kind, 'unknown');
  }
  record.note({ asked: ['n8'], answered: [], known: 1000 });
  t.same(record.verdict(), { kind: 'dead', nodesAsked: 9 });
});

test('rounds go over all nodes, each once, however chance falls (promise 15)', async (t) => {
  for (const chance of [0, 0.5, 0.999]) {
    const record = createPathRecord<string>(() => chance);
    const seen = new Set<string>();
    for (let round = 0; round < 3; round += 1) {
      const chosen = record.choose(NODES, 3);
      t.equal(new Set(chosen).size, 3);
      for (const node of chosen) seen.add(node);
    }
    t.equal(seen.size, 9);
    const next = record.choose(NODES, 3);
    t.equal(new Set(next).size, 3);
    for (const node of next) seen.add(node);
    t.same([...seen].sort(), NODES);
  }
});

test('fewer nodes than are wanted are all asked each time', async (t) => {
  const record = createPathRecord<string>();
  for (let round = 0; round < 3; round += 1)
    t.same(record.choose(['a', 'b'], 3).toSorted(), ['a', 'b']);
  t.same(record.choose([], 3), []);
});

test('nodes that answered are asked again, for as long as they are there', async (t) => {
  const record = createPathRecord<string>();
  record.note({ asked: ['n1', 'n2', 'n3'], answered: ['n3', 'n1', 'n2'], known: 10 });
  for (let round = 0; round < 10; round += 1) {
    const chosen = record.choose(NODES, 3);
    t.ok(chosen.includes('n3') && chosen.includes('n1'), chosen.join());
    t.equal(chosen.length, 3);
  }
  t.notOk(
    record
      .choose(
        NODES.filter((node) => node !== 'n3'),
        3,
      )
      .includes('n3'),
  );
});
