/** How V8 collects the garbage of an apiserver. Changed keys wait while it does: its memory is that of the whole cluster. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/**
 * Full collections of a large cluster's few hundred megabytes take a second of a core or two:
 * - Nothing is allocated among old objects from the start. During the first publication nearly all that is made lives on, from
 *   which V8 concludes that it should be; of the changes after it little does, and the rest would be left to full collections:
 *   twice as much garbage for them.
 * - One thread marks beside the program, not as many as there are cores: it takes longer, and leaves room for others.
 * - No more may gather than is in use, in percent. V8 itself lets a heap grow to four times as much.
 */
const FLAGS = [
  '--no-allocation-site-pretenuring',
  '--concurrent-marking-max-worker-num=1',
  '--heap-growing-percent=100',
];

/** To be called before anything large is made. */
export function setUpGarbageCollection(): void {
  for (const flag of FLAGS) setFlagsFromString(flag);
}

/**
 * Collects everything, and comes back when that is done. For the moment at which the first publication is over and nobody waits:
 * what it left would otherwise be collected under the first changes, and until then V8 does not know how much is in use.
 */
export function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  const collect: unknown = runInNewContext('gc');
  if (typeof collect === 'function') collect();
}
