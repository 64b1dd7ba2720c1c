import { test } from 'tap';
import { firstFailure } from './first-failure.ts';

function failing(text: string): Disposable {
  return {
    [Symbol.dispose]: () => {
      throw new Error(text);
    },
  };
}

test('firstFailure() finds what went wrong before disposals did', async (t) => {
  try {
    using _outer = failing('outer disposal');
    using _inner = failing('inner disposal');
    throw new Error('port taken');
  } catch (error) {
    t.match(firstFailure(error), { message: 'port taken' });
  }
  const plain = new Error('plain');
  t.equal(firstFailure(plain), plain);
  t.equal(firstFailure('text'), 'text');
});
