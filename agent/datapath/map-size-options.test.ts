import { test } from 'tap';
import { parseOptions } from '../../mesh/runtime/options.ts';
import { MAP_SIZE_OPTIONS, mapSizesOf } from './map-size-options.ts';
import { MAP_NAMES } from './object.ts';

const parse = (...argv: string[]) =>
  parseOptions(MAP_SIZE_OPTIONS, argv, {}, { name: 'agent', description: 'Test.' });

/** Those that are asked for. */
function sizesOf(...argv: string[]): Record<string, number> {
  const entries = Object.entries(mapSizesOf(parse(...argv)));
  return Object.fromEntries(
    entries.filter((entry): entry is [string, number] => entry[1] !== undefined),
  );
}

test('MAP_SIZE_OPTIONS: without a flag every map has the size that it declares', async (t) => {
  t.strictSame(sizesOf(), {});
  t.strictSame(parse().natPorts, { first: 61_000, last: 65_535 });
});

test('--bpf-lb-map-max is for all tables of services but for those with a flag of their own', async (t) => {
  t.strictSame(sizesOf('--bpf-lb-map-max', '70000'), {
    mesh_services: 70_000,
    mesh_backends: 70_000,
    mesh_affinity: 70_000,
    mesh_affinity_members: 70_000,
  });
  t.strictSame(
    sizesOf(
      ...['--bpf-lb-map-max', '70000', '--bpf-lb-service-map-max', '2048'],
      ...['--bpf-lb-service-backend-map-max=4096', '--bpf-lb-affinity-map-max=8192'],
    ),
    {
      mesh_services: 2048,
      mesh_backends: 4096,
      mesh_affinity: 8192,
      mesh_affinity_members: 2048,
    },
  );
});

test('--bpf-lb-maglev-map-max counts Services, whose tables have many entries', async (t) => {
  const values = parse('--bpf-lb-maglev-map-max', '10');
  t.equal(mapSizesOf(values).mesh_maglev, 10 * 256);
  t.equal(mapSizesOf(values, 251).mesh_maglev, 10 * 4);
});

test('other tables, and only maps that there are', async (t) => {
  const sizes = sizesOf('--bpf-sock-rev-map-max', '1024', '--bpf-fragments-map-max', '2048');
  t.strictSame(sizes, { mesh_translations: 1024, mesh_choices: 1024, mesh_fragments: 2048 });
  const names: readonly string[] = MAP_NAMES;
  t.ok(Object.keys(mapSizesOf(parse())).every((name) => names.includes(name)));
});

test('--nat-port-range', async (t) => {
  t.strictSame(parse('--nat-port-range', '1024-65535').natPorts, { first: 1024, last: 65_535 });
  t.strictSame(parse('--nat-port-range=62000-62255').natPorts, { first: 62_000, last: 62_255 });
  for (const text of [
    '61000',
    '61000:65535',
    '65535-61000',
    '1023-2000',
    '61000-65536',
    '61000-61254',
    '-',
  ]) {
    t.throws(() => parse(`--nat-port-range=${text}`), { message: /at least 256 ports/ }, text);
  }
});

test('a size that no table can have is refused', async (t) => {
  for (const text of ['0', '1023', '16777217', 'many']) {
    t.throws(() => parse('--bpf-lb-map-max', text), { message: /1024 to 16777216/ }, text);
  }
});
