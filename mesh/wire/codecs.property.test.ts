import { isDeepStrictEqual } from 'node:util';
import fc from 'fast-check';
import { test } from 'tap';
import { type Codec, codecs } from './testing/arbitraries.ts';
import { WireError } from './wire-error.ts';

const KEY = 'cilium/state/some/key';
/** Kinds whose values are text of another form. */
const NO_JSON: readonly string[] = ['identity', 'timestamp', 'identity-reference'];

/** Runs a decoder on what may be anything: a value, or a WireError that names the key. Anything else fails. */
function decodesOrRefuses(codec: Codec, value: Buffer | string): boolean {
  try {
    codec.decode(value, KEY);
    return true;
  } catch (error) {
    return error instanceof WireError && error.key === KEY && error.message.includes(KEY);
  }
}

for (const codec of codecs) {
  test(`${codec.name}: what is encoded decodes to the same`, async (t) => {
    fc.assert(
      fc.property(codec.values, (value) => {
        const encoded = codec.encode(value as never);
        const decoded = codec.decode(encoded, KEY);
        return isDeepStrictEqual(decoded, value) && codec.encode(decoded as never) === encoded;
      }),
      { numRuns: 200 },
    );
    t.pass();
  });

  test(`${codec.name}: every prefix of a value is decoded or refused`, async (t) => {
    fc.assert(
      fc.property(codec.values, (value) => {
        const encoded = codec.encode(value as never);
        return [...encoded].every((_, length) => decodesOrRefuses(codec, encoded.slice(0, length)));
      }),
      { numRuns: 20 },
    );
    t.pass();
  });

  test(`${codec.name}: a value with one character changed is decoded or refused`, async (t) => {
    fc.assert(
      fc.property(
        codec.values,
        fc.nat(),
        fc.string({ unit: 'grapheme', minLength: 1, maxLength: 1 }),
        (value, at, character) => {
          const encoded = codec.encode(value as never);
          const place = encoded.length === 0 ? 0 : at % encoded.length;
          return decodesOrRefuses(
            codec,
            encoded.slice(0, place) + character + encoded.slice(place + 1),
          );
        },
      ),
      { numRuns: 500 },
    );
    t.pass();
  });

  test(`${codec.name}: a value with bytes overwritten is decoded or refused`, async (t) => {
    fc.assert(
      fc.property(
        codec.values,
        fc.nat(),
        fc.uint8Array({ minLength: 1, maxLength: 4 }),
        (value, at, bytes) => {
          const encoded = Buffer.from(codec.encode(value as never));
          const place = at % Math.max(1, encoded.length);
          encoded.set(bytes.subarray(0, encoded.length - place), place);
          return decodesOrRefuses(codec, encoded);
        },
      ),
      { numRuns: 300 },
    );
    t.pass();
  });

  test(`${codec.name}: any JSON is decoded or refused`, async (t) => {
    fc.assert(
      fc.property(fc.json(), (json) => decodesOrRefuses(codec, json)),
      { numRuns: 500 },
    );
    t.pass();
  });
}

test('a value of one kind with any field replaced by any JSON is decoded or refused', async (t) => {
  const structured = codecs.filter(({ name }) => !NO_JSON.includes(name));
  fc.assert(
    fc.property(
      fc.constantFrom(...structured),
      fc.infiniteStream(fc.jsonValue()),
      fc.nat(),
      (codec, junk, seed) => {
        const [sample] = fc.sample(codec.values, { numRuns: 1, seed });
        const object: Record<string, unknown> = JSON.parse(codec.encode(sample as never));
        return Object.keys(object).every((field) =>
          decodesOrRefuses(codec, JSON.stringify({ ...object, [field]: junk.next().value })),
        );
      },
    ),
    { numRuns: 300 },
  );
  t.pass();
});

test('lists nested deeper than the stack are refused like any other value', async (t) => {
  const deep = '['.repeat(100_000) + ']'.repeat(100_000);
  for (const codec of codecs) {
    if (NO_JSON.includes(codec.name)) continue;
    const [sample] = fc.sample(codec.values, 1);
    const object: Record<string, unknown> = JSON.parse(codec.encode(sample as never));
    for (const field of Object.keys(object)) {
      const value = JSON.stringify({ ...object, [field]: '@' }).replace('"@"', deep);
      t.ok(decodesOrRefuses(codec, value), `${codec.name}: ${field}`);
    }
  }
});
