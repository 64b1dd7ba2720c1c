import { test } from 'tap';
import { type BackendPlace, encodePlaces, readPlaces } from './backend-place.ts';
import { parseIpAddress } from './ip.ts';
import { encodeGoJson } from './json.ts';
import { refusalOf } from './testing/refusal.ts';

const AT = { key: 'k', field: 'places' };
const place = (changes: Partial<BackendPlace>): BackendPlace => ({
  node: '',
  zone: '',
  forZones: [],
  forNodes: [],
  ...changes,
});

test('each place is written once, in an order of its own', async (t) => {
  const one = parseIpAddress('10.0.0.1');
  const two = parseIpAddress('10.0.0.2');
  const three = parseIpAddress('10.0.0.3');
  const a = place({ node: 'a', zone: 'za', forZones: ['za'] });
  const places = new Map([
    [three, { ...a }],
    [two, place({ node: 'b', forNodes: ['b'] })],
    [one, a],
  ]);
  const written = encodePlaces(places);
  t.same(written, [
    { node: 'a', zone: 'za', forZones: ['za'], forNodes: undefined, ips: [one, three] },
    { node: 'b', zone: undefined, forZones: undefined, forNodes: ['b'], ips: [two] },
  ]);
  const read = readPlaces(AT, JSON.parse(JSON.stringify(written)));
  t.same(read, places);
  t.equal(read.get(one), read.get(three), 'equal places are one object');
  t.equal(encodePlaces(new Map()), undefined);
  t.equal(readPlaces(AT, undefined).size, 0);
});

test('what is no proper Unicode is in the order that it has when it is read again', async (t) => {
  const places = new Map([
    [parseIpAddress('10.0.0.1'), place({ node: '\ud800' })],
    [parseIpAddress('10.0.0.2'), place({ node: 'a' })],
    [parseIpAddress('10.0.0.3'), place({ node: '\udc00' })],
  ]);
  const written = encodeGoJson(encodePlaces(places));
  t.equal(encodeGoJson(encodePlaces(readPlaces(AT, JSON.parse(written)))), written);
});

test('a place that cannot be read is named', async (t) => {
  const cases: readonly (readonly [found: unknown, field: string])[] = [
    [{}, 'places'],
    [[null], 'places[0]'],
    [[{}, { node: 1 }], 'places[1].node'],
    [[{ zone: 1 }], 'places[0].zone'],
    [[{ forZones: 1 }], 'places[0].forZones'],
    [[{ forNodes: [1] }], 'places[0].forNodes'],
    [[{ ips: ['x'] }], 'places[0].ips'],
  ];
  for (const [found, field] of cases) {
    t.match(
      refusalOf(() => readPlaces(AT, found)),
      { code: 'bad-field', field },
    );
  }
});
