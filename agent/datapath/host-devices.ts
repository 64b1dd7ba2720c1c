/**
 * Interfaces by which others reach the host without the tunnel. Programs are there when somebody needs them: Services that
 * are called from outside, a machine, or a node that policies select. Else its packets pass as they would without us.
 */
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { DatapathTable, EndpointEntry } from './desired.ts';
import { findNodeDevices } from './devices.ts';
import { isHostJudged, isHostRow } from './ops/endpoints.ts';

/** What finding them needs to know; part of DatapathOptions. */
export interface HostDeviceOptions {
  readonly nodeIps: readonly IpAddress[];
  readonly externalServices?: boolean | undefined;
  readonly hostEndpoint?: 'machine' | undefined;
  readonly devices?: readonly string[] | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Where programs for the host are, and where they should be. */
export interface HostDevices {
  /** Those that are to have programs now. */
  wanted(): readonly string[];
  /** Says whether policies are about the host. Throws DatapathError when there is nowhere to hold them. */
  setJudged(isJudged: boolean): void;
}

/**
 * Looks for them. Throws DatapathError `bad-option` when somebody needs them for certain and there are none; a node that
 * may come to need them is told when it does.
 */
export async function findHostDevices(options: HostDeviceOptions): Promise<HostDevices> {
  const isAlwaysNeeded = options.externalServices === true || options.hostEndpoint === 'machine';
  let found: readonly string[] = [];
  let failure: unknown;
  let isNeeded = isAlwaysNeeded;
  try {
    found = await findNodeDevices(options);
  } catch (error) {
    if (isAlwaysNeeded) throw error;
    failure = error;
  }
  return {
    wanted: () => (isNeeded ? found : []),
    setJudged(isJudged) {
      isNeeded = isAlwaysNeeded || isJudged;
      if (isJudged && failure !== undefined) throw failure;
    },
  };
}

type EndpointsTable = DatapathTable<EndpointEntry, Pick<EndpointEntry, 'endpointId' | 'addresses'>>;

/**
 * The table of endpoints, which sees to it that programs are there before policies are about the host, and go when none is
 * any more. `attach` puts them where they are wanted, and takes them away elsewhere.
 */
export function withHostDevices(
  table: EndpointsTable,
  { devices, attach }: { readonly devices: HostDevices; readonly attach: () => void },
): EndpointsTable {
  const follow = (isJudged: boolean): void => {
    const before = devices.wanted();
    devices.setJudged(isJudged);
    if (devices.wanted().join() !== before.join()) attach();
  };
  return {
    ...table,
    apply(changes) {
      const row = changes.upserts.find(isHostRow);
      if (row !== undefined && isHostJudged(row)) follow(true);
      table.apply(changes);
      const isGone = changes.deletes.some(isHostRow);
      if (isGone || (row !== undefined && !isHostJudged(row))) follow(false);
    },
  };
}
