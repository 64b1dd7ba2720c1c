import { test } from 'tap';
import { type DesiredObject, isApplied } from './applied-fields.ts';

const MANAGER = 'us';

/** An object whose fields we own as the API server would note it. */
function observed(fields: object, owned: object | undefined, subresource?: string) {
  const managedFields =
    owned === undefined
      ? []
      : [
          { manager: 'kubectl', operation: 'Update', fieldsV1: { 'f:metadata': { 'f:x': {} } } },
          { manager: MANAGER, operation: 'Apply', subresource, fieldsV1: owned },
        ];
  const { metadata, ...rest } = fields as { metadata?: object };
  return { ...rest, metadata: { name: 'a', namespace: 'n', ...metadata, managedFields } };
}

const labels = { 'f:metadata': { 'f:labels': { 'f:app': {} } } };
const cases: readonly {
  name: string;
  desired: Record<string, unknown>;
  found: object;
  subresource?: string;
  equal: boolean;
}[] = [
  {
    name: 'what others have set besides is no difference',
    desired: { metadata: { name: 'a', labels: { app: 'web' } } },
    found: observed({ metadata: { labels: { app: 'web', team: 'red' } }, spec: { x: 1 } }, labels),
    equal: true,
  },
  {
    name: 'another value is one',
    desired: { metadata: { name: 'a', labels: { app: 'web' } } },
    found: observed({ metadata: { labels: { app: 'db' } } }, labels),
    equal: false,
  },
  {
    name: 'a field that somebody removed is one',
    desired: { metadata: { name: 'a', labels: { app: 'web' } } },
    found: observed({}, labels),
    equal: false,
  },
  {
    name: 'a label that we set before and not now is one',
    desired: { metadata: { name: 'a', labels: {} } },
    found: observed({ metadata: { labels: { app: 'web' } } }, labels),
    equal: false,
  },
  {
    name: 'a whole field that we set before and not now is one',
    desired: { metadata: { name: 'a' } },
    found: observed({ spec: { type: 'X' } }, { 'f:spec': { 'f:type': {} } }),
    equal: false,
  },
  {
    name: 'an empty list is the same as none',
    desired: { metadata: { name: 'a' }, ports: [] },
    found: observed({ ports: null }, undefined),
    equal: true,
  },
  {
    name: 'an empty map is the same as none',
    desired: { metadata: { name: 'a', labels: {} } },
    found: observed({}, undefined),
    equal: true,
  },
  {
    name: 'a longer list is a difference',
    desired: { metadata: { name: 'a' }, list: [1] },
    found: observed({ list: [1, 2] }, undefined),
    equal: false,
  },
  {
    name: 'another order is a difference',
    desired: { metadata: { name: 'a' }, list: [{ a: 1 }, { a: 2 }] },
    found: observed({ list: [{ a: 2 }, { a: 1 }] }, undefined),
    equal: false,
  },
  {
    name: 'defaults in elements of a list are none',
    desired: { metadata: { name: 'a' }, ports: [{ port: 80 }] },
    found: observed(
      { ports: [{ port: 80, protocol: 'TCP', nodePort: 3 }] },
      { 'f:ports': { '.': {}, 'k:{"port":80,"protocol":"TCP"}': { '.': {}, 'f:port': {} } } },
    ),
    equal: true,
  },
  {
    name: 'an element that we own and do not want is one, even where the list looks the same',
    desired: { metadata: { name: 'a' }, owners: [{ uid: '2' }] },
    found: observed(
      { owners: [{ uid: '2' }] },
      { 'f:owners': { 'k:{"uid":"1"}': { 'f:uid': {} }, 'k:{"uid":"2"}': { 'f:uid': {} } } },
    ),
    equal: false,
  },
  {
    name: 'an element of a set that we own and do not want is one',
    desired: { metadata: { name: 'a' }, families: ['IPv4'] },
    found: observed({ families: ['IPv4'] }, { 'f:families': { 'v:"IPv4"': {}, 'v:"IPv6"': {} } }),
    equal: false,
  },
  {
    name: 'what we own in the status is no matter of the rest',
    desired: { metadata: { name: 'a' }, spec: { x: 1 } },
    found: observed({ spec: { x: 1 }, status: { y: 1 } }, { 'f:status': { 'f:y': {} } }, 'status'),
    equal: true,
  },
  {
    name: 'a status is compared with what we own in it',
    desired: { metadata: { name: 'a' }, status: { y: 1 } },
    found: observed({ status: { y: 1, z: 2 } }, { 'f:status': { 'f:y': {}, 'f:z': {} } }, 'status'),
    subresource: 'status',
    equal: false,
  },
];

for (const { name, desired, found, subresource, equal } of cases) {
  test(`isApplied(): ${name}`, (t) => {
    const options = {
      manager: MANAGER,
      ...(subresource === undefined ? {} : { subresource }),
    };
    t.equal(isApplied(desired as DesiredObject, { ...found }, options), equal);
    t.end();
  });
}
