/** Host policy as a machine's agent finds it, before its datapath is opened. */
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { FirewallCall } from '../datapath/firewall.ts';
import type { MachineRecord } from '../machine/machine-record.ts';
import { thisMachine } from '../machine/surroundings.ts';
import { readFirewallFile, type StoredFirewall } from './firewall-file.ts';
import { createPlaceFinder, type PlaceFinder } from './fixed-places.ts';
import { fixedCalls } from './fixed-rules.ts';

/** What was found. */
export interface FoundFirewall {
  readonly stored: StoredFirewall;
  readonly places: PlaceFinder;
  /** What the datapath is to be opened with; undefined: the host is no firewall. */
  readonly confirmed: { readonly open: readonly FirewallCall[] } | undefined;
}

/** Reads the state directory, and finds what has to stay open where a firewall was confirmed. Takes seconds where names fail. */
export async function openStoredFirewall(options: {
  readonly stateDir: string;
  readonly record: Pick<MachineRecord, 'registries' | 'etcdEndpoints'>;
  /** Given to the agent; else the record's. */
  readonly registryAddress?: HostPort | undefined;
  readonly resolve?: ((host: string) => Promise<readonly IpAddress[]>) | undefined;
  readonly clock: Clock;
}): Promise<FoundFirewall> {
  const { stateDir, record, registryAddress, clock } = options;
  const stored = readFirewallFile(stateDir);
  const places = createPlaceFinder({
    servers: () => [
      ...(registryAddress === undefined ? [] : [registryAddress]),
      ...record.registries,
      ...record.etcdEndpoints.map(serverOf),
    ],
    resolve: options.resolve ?? thisMachine().resolve,
    clock,
  });
  if (stored.kind !== 'confirmed') return { stored, places, confirmed: undefined };
  const { adminPorts } = stored.confirmed;
  const open = fixedCalls({ adminPorts, ...(await places.look()) });
  return { stored, places, confirmed: { open } };
}

/** Where an etcd is that is said as a URL. */
function serverOf(endpoint: string): HostPort {
  const { hostname, port, protocol } = new URL(endpoint);
  const usual = protocol === 'https:' ? 443 : 80;
  return { host: hostname.replace(/^\[|\]$/g, ''), port: port === '' ? usual : Number(port) };
}
