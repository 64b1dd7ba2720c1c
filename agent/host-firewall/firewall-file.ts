/** What an operator has confirmed, kept over restarts: 0600, and either the old content or the new. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { reasonOf } from '../machine/machine-error.ts';
import { readMachineFile, writeMachineFile } from '../machine/machine-files.ts';
import { FirewallError } from './firewall-error.ts';
import { MOST_ADMIN_PORTS } from './fixed-rules.ts';

/** Its name in the state directory. */
export const FIREWALL_FILE = 'host-firewall.json';

const SCHEMA = 1;

/** Ports by which operators come in, each once. */
export const adminPortsSchema = z
  .array(z.number().int().min(1).max(65_535))
  .min(1)
  .max(MOST_ADMIN_PORTS)
  .transform((ports) => [...new Set(ports)]);

const fileSchema = z.object({
  schema: z.literal(SCHEMA),
  mode: z.literal('full'),
  adminPorts: adminPortsSchema,
  confirmedAt: z.iso.datetime(),
});

/** A firewall that is one for good. */
export interface ConfirmedFirewall {
  readonly adminPorts: readonly number[];
  /** RFC 3339. */
  readonly confirmedAt: string;
}

/** What the file says. A file that cannot be read counts as none, and says why. */
export type StoredFirewall =
  | { readonly kind: 'none' }
  | { readonly kind: 'confirmed'; readonly confirmed: ConfirmedFirewall }
  | { readonly kind: 'unreadable'; readonly reason: string };

/** Reads it. */
export function readFirewallFile(stateDir: string): StoredFirewall {
  const path = join(stateDir, FIREWALL_FILE);
  try {
    const text = readMachineFile(stateDir, FIREWALL_FILE);
    if (text === undefined) return { kind: 'none' };
    const { adminPorts, confirmedAt } = fileSchema.parse(JSON.parse(text));
    return { kind: 'confirmed', confirmed: { adminPorts, confirmedAt } };
  } catch (error) {
    const reason =
      error instanceof z.ZodError
        ? error.issues.map(({ path: at, message }) => `${at.join('.')}: ${message}`).join('; ')
        : reasonOf(error);
    return { kind: 'unreadable', reason: `cannot use ${path}: ${reason}` };
  }
}

/** Writes it. Throws FirewallError `disk`. */
export function writeFirewallFile(stateDir: string, confirmed: ConfirmedFirewall): void {
  const content = { schema: SCHEMA, mode: 'full', ...confirmed };
  try {
    writeMachineFile(stateDir, FIREWALL_FILE, `${JSON.stringify(content, null, 2)}\n`);
  } catch (cause) {
    throw new FirewallError('disk', reasonOf(cause), { retryable: true, cause });
  }
}

/** Removes it; one that is not there is no error. Throws what the file system throws. */
export function removeFirewallFile(stateDir: string): void {
  rmSync(join(stateDir, FIREWALL_FILE), { force: true });
}
