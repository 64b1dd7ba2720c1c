/** What the socket answers about host policy: `/v1/firewall`. */
import { z } from 'zod';
import { FirewallError } from './firewall-error.ts';
import { adminPortsSchema } from './firewall-file.ts';
import type { FirewallDescription } from './firewall-report.ts';
import { DEFAULT_ADMIN_PORTS } from './fixed-rules.ts';
import {
  DEFAULT_CONFIRM_SECONDS,
  FEWEST_CONFIRM_SECONDS,
  type HostFirewall,
  MOST_CONFIRM_SECONDS,
} from './host-firewall.ts';

const requestSchema = z.discriminatedUnion('action', [
  z.object({
    action: z.literal('enable'),
    adminPorts: adminPortsSchema.default([...DEFAULT_ADMIN_PORTS]),
    confirmWithinSeconds: z
      .number()
      .int()
      .min(FEWEST_CONFIRM_SECONDS)
      .max(MOST_CONFIRM_SECONDS)
      .default(DEFAULT_CONFIRM_SECONDS),
  }),
  z.object({ action: z.literal('confirm') }),
  z.object({ action: z.literal('disable') }),
]);

/** An answer, to be sent as JSON. */
export interface FirewallAnswer {
  readonly status: number;
  readonly body: FirewallDescription | { readonly error: string };
}

/** Answers GET with the report, and POST of an action with the report after it. Throws what nobody has foreseen. */
export async function answerFirewall(
  { method, body }: { readonly method: string; readonly body: () => Promise<string> },
  firewall: HostFirewall | undefined,
): Promise<FirewallAnswer> {
  try {
    if (firewall === undefined) {
      throw new FirewallError(
        'unsupported',
        'host policy full is for machines (clustermesh vm join), and this is a node: kubelet, the CNI and kube-proxy have ports and rules of their own there, which no fixed list could know; guard it with policies that select nodes',
      );
    }
    if (method === 'POST') await act(await body(), firewall);
    return { status: 200, body: firewall.describe() };
  } catch (error) {
    if (!(error instanceof FirewallError)) throw error;
    return { status: error.code === 'usage' ? 400 : 409, body: { error: error.message } };
  }
}

async function act(body: string, firewall: HostFirewall): Promise<void> {
  const request = parseRequest(body);
  switch (request.action) {
    case 'enable':
      return firewall.enable(request);
    case 'confirm':
      return firewall.confirm();
    case 'disable':
      return firewall.disable();
    default:
      return request satisfies never;
  }
}

function parseRequest(body: string): z.infer<typeof requestSchema> {
  try {
    return requestSchema.parse(JSON.parse(body));
  } catch (cause) {
    const issue = cause instanceof z.ZodError ? cause.issues[0] : undefined;
    const why = issue === undefined ? String(cause) : `${issue.path.join('.')}: ${issue.message}`;
    throw new FirewallError('usage', `cannot read the question: ${why}`, { cause });
  }
}
