import fc from 'fast-check';
import { test } from 'tap';
import { portBlocks } from './ports.ts';

test('portBlocks() covers exactly the range, in aligned blocks', async (t) => {
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 65_535 }),
        fc.integer({ min: 0, max: 65_535 }),
        (first, length) => {
          const last = Math.min(65_535, first + length);
          let next = first;
          const blocks = portBlocks(6, first, last);
          for (const block of blocks) {
            if (block.kind === 'named') return false;
            const size = 2 ** (16 - block.portPrefixBits);
            if (block.port !== next || block.port % size !== 0) return false;
            next = block.port + size;
          }
          return next === last + 1 && blocks.length <= 30;
        },
      ),
    ),
  );
  t.same(portBlocks(6, 80, 80), [{ kind: 'block', protocol: 6, port: 80, portPrefixBits: 16 }]);
  t.equal(portBlocks(6, 1, 65_535).length, 16);
});
