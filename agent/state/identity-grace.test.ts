import { test } from 'tap';
import { parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { createIdentityGrace } from './identity-grace.ts';

const [init, a, b, c] = [5, 0x10101, 0x10102, 0x10103].map(parseNumericIdentity) as [
  ReturnType<typeof parseNumericIdentity>,
  ReturnType<typeof parseNumericIdentity>,
  ReturnType<typeof parseNumericIdentity>,
  ReturnType<typeof parseNumericIdentity>,
];

test('createIdentityGrace() lets packets go under the former identity for a while', (t) => {
  const grace = createIdentityGrace(1000);
  t.equal(grace.follow(1, { identity: a, sent: a }, 0), a);
  t.equal(grace.nextAt(), undefined, 'nothing has changed');
  t.equal(grace.follow(1, { identity: b, sent: a }, 100), a);
  t.equal(grace.nextAt(), 1100);
  t.strictSame(grace.takeDue(1099), []);
  t.equal(grace.follow(1, { identity: b, sent: a }, 1099), a, 'asked again, for another reason');
  t.strictSame(grace.takeDue(1100), [1]);
  t.equal(grace.follow(1, { identity: b, sent: a }, 1100), b);
  t.strictSame(grace.takeDue(5000), [], 'it has got there');
  t.equal(grace.nextAt(), undefined);
  t.end();
});

test('createIdentityGrace() begins anew with every identity', (t) => {
  const grace = createIdentityGrace(1000);
  grace.follow(1, { identity: b, sent: a }, 0);
  t.equal(grace.follow(1, { identity: c, sent: a }, 900), a, 'the one after that is news as well');
  t.strictSame(grace.takeDue(1000), []);
  t.equal(grace.follow(1, { identity: a, sent: a }, 1500), a, 'and back');
  t.equal(grace.nextAt(), undefined);
  grace.follow(2, { identity: b, sent: a }, 2000);
  grace.follow(3, { identity: c, sent: a }, 1900);
  t.equal(grace.nextAt(), 2900, 'the earliest');
  grace.forget(3);
  t.equal(grace.nextAt(), 3000);
  t.end();
});

test('createIdentityGrace() waits for nothing that could not be known', (t) => {
  const grace = createIdentityGrace(1000);
  t.equal(grace.follow(1, { identity: a, sent: init }, 0), a, 'its first identity');
  t.equal(grace.follow(1, { identity: init, sent: a }, 0), init, 'none any more');
  t.equal(createIdentityGrace(0).follow(1, { identity: b, sent: a }, 0), b, 'no grace');
  t.end();
});
