/** What policies of a host never decide: what has no part in the mesh, and what keeps the host a part of it. */
import type { EnforcementMode } from './enforcement-mode.ts';
import type { Direction } from './rule.ts';
import type { Party, PortQuestion, SideVerdict } from './sources-of-verdict.ts';

/** Of the gate, enrolment, the registry and the health port: `bpf/lib/host.h` has these and what the host's files name. */
const OPEN_PORTS: readonly number[] = [2379, 2380, 2381, 4240];
const LEASE_PORTS: readonly number[] = [67, 68, 546, 547];
const [TCP, UDP] = [6, 17];

/**
 * The verdict about a packet of a node that no policy has a say in; undefined: policies decide. As `judge_host()` of the
 * datapath has it, but for ports that only the node's own configuration names.
 */
export function fixedHostVerdict(
  question: PortQuestion & { readonly direction: Direction; readonly peer: Party },
  { mode }: { readonly mode: EnforcementMode },
): SideVerdict | undefined {
  if (mode === 'never') return undefined;
  const { peer, protocol, port } = question;
  if (peer.kind === 'world') return { verdict: 'allowed', because: 'not-of-mesh' };
  const isOpen =
    (protocol === UDP && LEASE_PORTS.includes(port)) ||
    (protocol === TCP && peer.kind === 'node' && OPEN_PORTS.includes(port));
  return isOpen ? { verdict: 'allowed', because: 'always-open' } : undefined;
}
