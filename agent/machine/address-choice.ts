/** Which of a machine's addresses the others reach it by. */
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import { MachineError, reasonOf } from './machine-error.ts';
import type { OwnAddress, Surroundings } from './surroundings.ts';

/** The addresses and why these. Of each family the first is the one that the machine calls from by itself. */
export interface AddressChoice {
  readonly addresses: readonly IpAddress[];
  readonly text: string;
}

/**
 * Chooses: what a person said, which may be several of a family; else the address that the machine reaches the registry from, and of the other family the only
 * one of the same interface. Throws MachineError `preflight` with what to do.
 */
export async function chooseAddresses(options: {
  /** Name or address of the registry. */
  readonly host: string;
  readonly wanted: readonly IpAddress[];
  readonly surroundings: Pick<Surroundings, 'ownAddresses' | 'resolve' | 'routeTo'>;
  readonly signal: AbortSignal;
}): Promise<AddressChoice> {
  const { host, wanted, surroundings, signal } = options;
  const own = surroundings.ownAddresses();
  if (wanted.length > 0) checkWanted(wanted, own);
  if (own.length === 0) {
    throw new MachineError(
      'preflight',
      'this machine has no address but loopback and link-local ones: give it one that the nodes of the cluster reach',
    );
  }
  let source: IpAddress;
  try {
    const [target] = await surroundings.resolve(host);
    if (target === undefined) throw new Error(`${host} has no address`);
    ({ source } = await surroundings.routeTo(target, signal));
  } catch (cause) {
    signal.throwIfAborted();
    throw new MachineError(
      'preflight',
      `cannot tell which address is used towards ${host}: ${reasonOf(cause)}; choose one with --address: ${listed(own)}`,
      { cause },
    );
  }
  if (wanted.length > 0) return chosenByPerson(wanted, { host, source });
  const first = own.find(({ address }) => address === source);
  if (first === undefined) {
    throw new MachineError(
      'preflight',
      `this machine reaches ${host} from ${source}, which others do not reach: give an address of the cluster that is reached from one of ${listed(own)}`,
    );
  }
  const others = own.filter(
    ({ address, interfaceName }) =>
      interfaceName === first.interfaceName && ipFamily(address) !== ipFamily(source),
  );
  const [second, ...further] = others;
  const addresses =
    second === undefined || further.length > 0 ? [source] : [source, second.address];
  const unused = own.filter(({ address }) => !addresses.includes(address));
  const rest =
    unused.length === 0 ? '' : `; not used: ${listed(unused)} (--address chooses another)`;
  const why = `towards ${host}, interface ${first.interfaceName}`;
  return { addresses: inOrder(addresses), text: `${addresses.join(' and ')} (${why})${rest}` };
}

function checkWanted(wanted: readonly IpAddress[], own: readonly OwnAddress[]): void {
  const strange = wanted.filter((address) => !own.some((held) => held.address === address));
  if (strange.length === 0) return;
  const held = own.length === 0 ? 'none' : listed(own);
  throw new MachineError(
    'preflight',
    `--address ${strange.join(', ')} is not an address of this machine; it has ${held}`,
  );
}

/** The cluster takes only what it sees the machine by: another source would look like address translation. */
function chosenByPerson(
  wanted: readonly IpAddress[],
  way: { readonly host: string; readonly source: IpAddress },
): AddressChoice {
  if (!wanted.includes(way.source)) {
    throw new MachineError(
      'preflight',
      `--address ${wanted.join(', ')}: this machine reaches ${way.host} from ${way.source}, and the cluster would take that for address translation; choose ${way.source}, or change the source of that route (ip route replace ... src ADDRESS)`,
    );
  }
  // What the cluster sees it by comes first, so that it goes on calling by that.
  const others = wanted.filter((address) => address !== way.source);
  const addresses = inOrder([...new Set([way.source, ...others])]);
  return { addresses, text: `${addresses.join(' and ')} (--address)` };
}

function inOrder(addresses: readonly IpAddress[]): readonly IpAddress[] {
  return [...addresses].sort((a, b) => ipFamily(a) - ipFamily(b));
}

function listed(own: readonly OwnAddress[]): string {
  return own.map(({ address, interfaceName }) => `${address} (${interfaceName})`).join(', ');
}
