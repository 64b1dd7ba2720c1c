import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { createPlaces, describeUnrouted, findUnrouted } from './native-routes.ts';
import { testPrefix } from './testing/program-run.ts';

test('createPlaces() takes one address of each family behind each node', async (t) => {
  const places = createPlaces();
  const behind = (prefix: string, tunnelEndpoint: string) =>
    testPrefix(prefix, 70_000, { tunnelEndpoint, clusterId: 2 });
  places.add([
    behind('10.2.0.1/32', '192.0.2.2'),
    behind('10.2.0.2/32', '192.0.2.2'),
    behind('fd02::1/128', '192.0.2.2'),
    testPrefix('192.0.2.2/32', 6, { clusterId: 2 }),
  ]);
  places.add([behind('10.2.1.0/24', '192.0.2.3'), behind('10.2.0.9/32', '192.0.2.2')]);
  t.match(places.places(), [
    { address: '10.2.0.1', node: '192.0.2.2', clusterId: 2 },
    { address: 'fd02::1', node: '192.0.2.2' },
    { address: '10.2.1.0', node: '192.0.2.3' },
  ]);
  t.equal(places.places().length, 3);
});

test('findUnrouted() asks nobody about nothing', async (t) => {
  t.strictSame(await findUnrouted([]), []);
});

test('describeUnrouted() names ten and counts the others', async (t) => {
  const node = parseIpAddress('192.0.2.2');
  const unrouted = Array.from({ length: 12 }, (_, index) => ({
    address: parseIpAddress(`10.2.0.${index}`),
    node,
    clusterId: 2,
  }));
  const lines = describeUnrouted(unrouted);
  t.equal(lines.length, 11);
  t.match(
    lines[0],
    /no route to 10\.2\.0\.0, an endpoint behind node 192\.0\.2\.2 of cluster id 2/,
  );
  t.match(lines[10], /the same for 2 more nodes/);
});
