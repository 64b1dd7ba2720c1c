/** Questions of the registry whether this node reaches others. */
import { z } from 'zod';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import type { LookAtNodes, ReachQuestion } from '../withdrawal/reach.ts';

const MOST_ADDRESSES = 64;

const questionSchema = z.object({
  id: z.union([z.string(), z.number()]),
  addresses: z.array(z.string()).max(MOST_ADDRESSES).default([]),
  udp_port: z.number().default(0),
});

/** Looks, and answers. A question that cannot be read, and one whose session ends meanwhile, gets no answer. Never rejects. */
export async function answerProbe(
  stream: { write(message: object): unknown },
  options: {
    readonly probe: unknown;
    readonly lookAtNodes: LookAtNodes | undefined;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { lookAtNodes, signal } = options;
  const asked = parseQuestion(options.probe);
  if (asked === undefined || lookAtNodes === undefined) return;
  const seen = await lookAtNodes(asked.question, { signal }).catch(() => undefined);
  if (seen === undefined || signal.aborted) return;
  const nodes = seen.map(({ address, problem = '' }) => ({ address, problem }));
  stream.write({ probed: { id: asked.id, nodes } });
}

function parseQuestion(
  message: unknown,
): { readonly id: string | number; readonly question: ReachQuestion } | undefined {
  try {
    const { id, addresses, udp_port: port } = questionSchema.parse(message);
    const udpPort = port === 0 ? undefined : port;
    return { id, question: { addresses: addresses.map(parseIpAddress), udpPort } };
  } catch {
    return undefined;
  }
}
