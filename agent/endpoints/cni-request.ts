import { type IpAddress, parseIpPrefix, splitPrefix } from '../../mesh/wire/ip.ts';
import { CniError } from './endpoint-error.ts';

export const CNI_COMMANDS = ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS'] as const;

/** A request of the CNI plugin, as its C program passes it on. */
export interface CniRequest {
  readonly command: (typeof CNI_COMMANDS)[number];
  readonly containerId: string;
  readonly netns: string;
  readonly ifName: string;
  /** `CNI_ARGS` taken apart. */
  readonly args: ReadonlyMap<string, string>;
  readonly config: CniConfig;
}

/** The network configuration with what earlier plugins of the chain did. */
export interface CniConfig {
  readonly cniVersion: string;
  readonly name: string;
  /** What the plugins before say; the answer of one that changes nothing of it. */
  readonly prevResult: Readonly<Record<string, unknown>> | undefined;
  /** Attachments that still exist, for GC; undefined when the runtime did not say. */
  readonly validAttachments:
    | readonly { readonly containerId: string; readonly ifName: string }[]
    | undefined;
}

type Fields = Readonly<Record<string, unknown>>;

/** Parses the body of a request. Throws CniError. */
export function parseCniRequest(body: string): CniRequest {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch (cause) {
    throw new CniError(6, 'cannot decode the request: it is not JSON', { cause });
  }
  const fields = objectOf(value, 'the request');
  const command = CNI_COMMANDS.find((known) => known === fields.command);
  if (command === undefined) {
    throw new CniError(
      4,
      `cannot serve CNI_COMMAND ${JSON.stringify(fields.command)}: expected one of ${CNI_COMMANDS.join(', ')}`,
    );
  }
  const aboutContainer = command === 'ADD' || command === 'DEL' || command === 'CHECK';
  const required = (field: string, variable: string): string => {
    const text = textOf(fields, field);
    if (text === '') throw new CniError(4, `${variable} must be set for ${command}`);
    return text;
  };
  return {
    command,
    containerId: aboutContainer
      ? required('containerId', 'CNI_CONTAINERID')
      : textOf(fields, 'containerId'),
    ifName: aboutContainer ? required('ifName', 'CNI_IFNAME') : textOf(fields, 'ifName'),
    netns:
      command === 'ADD' || command === 'CHECK'
        ? required('netns', 'CNI_NETNS')
        : textOf(fields, 'netns'),
    args: parseArgs(textOf(fields, 'args')),
    config: parseConfig(fields.config),
  };
}

function parseConfig(value: unknown): CniConfig {
  const config = objectOf(value, 'the network configuration');
  const attachments = config['cni.dev/valid-attachments'];
  return {
    cniVersion: textOf(config, 'cniVersion') || '0.4.0',
    name: textOf(config, 'name'),
    prevResult: isAbsent(config.prevResult) ? undefined : objectOf(config.prevResult, 'prevResult'),
    validAttachments: Array.isArray(attachments)
      ? attachments.map((attachment: unknown) => {
          const fields = objectOf(attachment, 'cni.dev/valid-attachments');
          return { containerId: textOf(fields, 'containerID'), ifName: textOf(fields, 'ifname') };
        })
      : undefined,
  };
}

/**
 * Addresses that earlier plugins gave the container's interface: those that name it, and, from plugins that name none,
 * all. Throws CniError when there are none.
 */
export function addressesOf(config: CniConfig, ifName: string): IpAddress[] {
  const { prevResult } = config;
  if (prevResult === undefined) {
    throw new CniError(
      7,
      'prevResult is missing: list this plugin after the one that makes the interface, such as ptp',
    );
  }
  const interfaces = listOf(prevResult, 'interfaces').map((entry) =>
    objectOf(entry, 'prevResult.interfaces'),
  );
  const addresses = new Set<IpAddress>();
  listOf(prevResult, 'ips').forEach((entry, index) => {
    const ip = objectOf(entry, `prevResult.ips[${index}]`);
    const target = typeof ip.interface === 'number' ? interfaces[ip.interface] : undefined;
    if (
      target !== undefined &&
      (textOf(target, 'name') !== ifName || textOf(target, 'sandbox') === '')
    )
      return;
    try {
      const text = textOf(ip, 'address');
      addresses.add(splitPrefix(parseIpPrefix(text.split('/')[0])).address);
    } catch (cause) {
      throw new CniError(
        7,
        `prevResult.ips[${index}].address cannot be read: ${cause instanceof Error ? cause.message : String(cause)}`,
        { cause },
      );
    }
  });
  if (addresses.size === 0) {
    throw new CniError(
      7,
      `prevResult has no address of interface ${ifName}: this plugin needs one`,
    );
  }
  return [...addresses].sort();
}

/** Names of the interfaces that earlier plugins made on the node's side. */
export function hostInterfacesOf({ prevResult }: CniConfig): string[] {
  return listOf(prevResult ?? {}, 'interfaces')
    .map((entry) => objectOf(entry, 'prevResult.interfaces'))
    .filter((entry) => textOf(entry, 'sandbox') === '')
    .map((entry) => textOf(entry, 'name'));
}

/** `A=1;B=2` as a map. */
function parseArgs(text: string): ReadonlyMap<string, string> {
  const args = new Map<string, string>();
  for (const part of text.split(';')) {
    const equals = part.indexOf('=');
    if (equals > 0) args.set(part.slice(0, equals), part.slice(equals + 1));
  }
  return args;
}

function objectOf(value: unknown, what: string): Fields {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Fields;
  throw new CniError(6, `cannot decode ${what}: expected an object`);
}

function textOf(fields: Fields, field: string): string {
  const value = fields[field];
  if (isAbsent(value)) return '';
  if (typeof value === 'string') return value;
  throw new CniError(6, `cannot decode field ${field}: expected a text`);
}

function listOf(fields: Fields, field: string): readonly unknown[] {
  const value = fields[field];
  if (isAbsent(value)) return [];
  if (Array.isArray(value)) return value;
  throw new CniError(6, `cannot decode field ${field}: expected a list`);
}

function isAbsent(value: unknown): value is undefined | null {
  return value === undefined || value === null;
}
