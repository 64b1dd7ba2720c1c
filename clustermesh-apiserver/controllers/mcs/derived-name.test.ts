import { test } from 'tap';
import { derivedServiceName } from './derived-name.ts';

/** Made by another implementation of SHA-256 and base 32. */
const NAMES: readonly (readonly [string, string, string])[] = [
  ['demo', 'web', 'derived-scaifns3gd'],
  ['default', 'kubernetes', 'derived-85e1ag9thl'],
  ['a', 'b', 'derived-o56drg1jup'],
  ['data', 'db', 'derived-p1lq1mrn4r'],
  ['mcs-conformance-1', 'hello', 'derived-ekn3sqmcj3'],
];

for (const [namespace, name, derived] of NAMES) {
  test(`derivedServiceName() of ${namespace}/${name}`, async (t) => {
    t.equal(derivedServiceName(namespace, name), derived);
  });
}
