/** The process that calls from a pod's network namespace: reads whom from standard input, writes what became of it. Not for import. */
import { text } from 'node:stream/consumers';
import { z } from 'zod';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { askTcp } from '../withdrawal/probe.ts';

const requestSchema = z.object({
  targets: z.array(z.object({ address: z.string().transform(parseIpAddress), port: z.number() })),
  timeoutMs: z.number(),
});

const { signal } = new AbortController();
const { targets, timeoutMs } = requestSchema.parse(JSON.parse(await text(process.stdin)));
const outcomes = await Promise.all(
  targets.map(({ address, port }) => askTcp(address, { port, timeoutMs, signal })),
);
process.stdout.write(JSON.stringify(outcomes));
