import { readFileSync } from 'node:fs';
import { test } from 'tap';
import { parse } from 'yaml';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { missingCapabilities, NEEDED_CAPABILITIES, parseEffective } from './capabilities.ts';

const ALL = NEEDED_CAPABILITIES.reduce((mask, { bit }) => mask | (1n << BigInt(bit)), 0n);
const MODERN = '6.1.0-18-amd64';

const names = (effective: bigint, release = MODERN): string[] =>
  missingCapabilities(effective, release).map(({ name }) => name);

test('missingCapabilities() names each that is not there', (t) => {
  t.same(names(ALL), []);
  t.same(names(0n), ['NET_ADMIN', 'NET_RAW', 'SYS_ADMIN']);
  for (const { name, bit, before } of NEEDED_CAPABILITIES) {
    const rest = ALL & ~(1n << BigInt(bit));
    t.same(names(rest), before === undefined ? [name] : []);
    t.same(names(rest, '5.10.0-28-cloud'), [name], 'on the oldest kernel all are needed');
  }
  t.same(names(ALL & ~(1n << 24n), '5.11'), []);
  t.same(names(ALL & ~(1n << 24n), '4.18.0'), ['SYS_RESOURCE']);
  t.end();
});

test('parseEffective() reads what the kernel says of a process', (t) => {
  t.equal(
    parseEffective('Name:\tnode\nCapPrm:\t0000000000000001\nCapEff:\t00000000a80425fb\n'),
    0xa80425fbn,
  );
  t.equal(typeof parseEffective(readFileSync('/proc/self/status', 'utf8')), 'bigint');
  t.equal(parseEffective('Name:\tnode\n'), undefined);
  t.end();
});

test('the chart gives an agent what it needs, and nothing else', (t) => {
  const values = parse(readFileSync(projectPath('helm/clustermesh/values.yaml'), 'utf8'));
  const needed = NEEDED_CAPABILITIES.map(({ name }) => name);
  t.same(values.agent.capabilities.add, needed);
  t.end();
});
