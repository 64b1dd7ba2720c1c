/** Answers about leases that hold nothing, under headers of etcd's own. */
import { randomInt } from 'node:crypto';
import type { Clock } from '../../mesh/runtime/clock.ts';
import {
  answerLeaseGrant,
  answerLeaseKeepAlive,
  answerLeaseRevoke,
  LEASE_SPAN,
  type LeaseAnswerParts,
} from './empty-lease.ts';

/** How long a header serves: thousands of readers keep their leases alive, and its revision is of no use to them. */
const HEADER_LIFE_MS = 1000;

/** Each takes an encoded request. Rejects with ProtobufError, or as `readHeader` does. */
export interface LeaseAnswers {
  grant(request: Buffer): Promise<Buffer>;
  keepAlive(request: Buffer): Promise<Buffer>;
  revoke(request: Buffer): Promise<Buffer>;
}

/** Makes the answers; `readHeader` asks etcd for a header, with its tag, and `clock` tells how old one is. */
export function createLeaseAnswers(
  readHeader: () => Promise<Buffer>,
  clock: Pick<Clock, 'monotonic'>,
): LeaseAnswers {
  let header: Promise<Buffer> | undefined;
  let readAt = 0;
  const freshHeader = (): Promise<Buffer> => {
    if (header === undefined || clock.monotonic() - readAt > HEADER_LIFE_MS) {
      readAt = clock.monotonic();
      const reading = readHeader();
      reading.catch(() => {
        if (header === reading) header = undefined;
      });
      header = reading;
    }
    return header;
  };
  const answerBy =
    (compute: (request: Buffer, parts: LeaseAnswerParts) => Buffer) =>
    async (request: Buffer): Promise<Buffer> =>
      compute(request, { header: await freshHeader(), random: randomInt(LEASE_SPAN) });
  return {
    grant: answerBy(answerLeaseGrant),
    keepAlive: answerBy(answerLeaseKeepAlive),
    revoke: answerBy(answerLeaseRevoke),
  };
}
