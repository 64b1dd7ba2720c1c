/** The ports of a service that several clusters export. */

import { PROTOCOLS } from '../../../mesh/wire/service.ts';
import type { ExportedPort, ServiceExport } from '../../../mesh/wire/service-export.ts';
import { isDnsLabel, isQualifiedName } from './object-names.ts';

/** A port as it is imported. */
export interface ImportedPort {
  /** Empty for the only port of a service. */
  readonly name: string;
  readonly protocol: (typeof PROTOCOLS)[number];
  readonly port: number;
  readonly appProtocol: string | undefined;
}

/** All ports, and what the clusters do not agree on. */
export interface MergedPorts {
  readonly ports: readonly ImportedPort[];
  /** Clusters whose ports are not the imported ones, in the order of the exports. */
  readonly disagreeing: readonly string[];
  /** What was left out or overruled, for people; the order is that of the exports. */
  readonly notes: readonly string[];
}

/**
 * Kubernetes' own limit for a Service is the size of the object; a peer that exports thousands would make the derived Service, and
 * with it the ports of everybody else, impossible to write.
 */
const MAX_PORTS = 250;

/**
 * Takes the ports of all exports, oldest first. A port is known by its number and protocol: the first name and appProtocol of it
 * count. A name that is taken for another port is left out, and so is a port that cannot stand beside the others: one without
 * a name, where there are several, and whatever Kubernetes would refuse.
 */
export function mergePorts(exports: readonly ServiceExport[]): MergedPorts {
  const ports: ImportedPort[] = [];
  const notes: string[] = [];
  for (const { cluster, ports: exported } of exports) {
    for (const port of exported ?? []) {
      const note = addPort(ports, port);
      if (note !== undefined) notes.push(`${describePort(port)} of ${cluster} ${note}`);
    }
  }
  const disagreeing = exports
    .filter(({ ports: exported }) => !hasSamePorts(exported ?? [], ports))
    .map(({ cluster }) => cluster);
  return { ports, disagreeing, notes };
}

/** Adds a port unless it is there; returns what is to be said of one that differs or cannot be taken. */
function addPort(ports: ImportedPort[], exported: ExportedPort): string | undefined {
  const protocol = protocolOf(exported);
  if (protocol === undefined) return 'is left out: its protocol is none of Kubernetes';
  if (exported.port < 1) return 'is left out: there is no such port';
  if (exported.name !== '' && !isDnsLabel(exported.name)) {
    return 'is left out: its name is no DNS label';
  }
  const port: ImportedPort = {
    name: exported.name,
    protocol,
    port: exported.port,
    appProtocol:
      exported.appProtocol !== undefined && isQualifiedName(exported.appProtocol)
        ? exported.appProtocol
        : undefined,
  };
  const known = ports.find((other) => isSamePort(other, port));
  if (known !== undefined) {
    if (known.name !== port.name) return `is imported as ${describePort(known)}`;
    return known.appProtocol === port.appProtocol
      ? undefined
      : `is imported with appProtocol ${JSON.stringify(known.appProtocol ?? '')}`;
  }
  const named = ports.find((other) => other.name === port.name);
  if (named !== undefined) return `is left out: the name is that of ${describePort(named)}`;
  if (ports.some((other) => other.name === '') || (port.name === '' && ports.length > 0)) {
    return 'is left out: a port without a name can only stand alone';
  }
  if (ports.length >= MAX_PORTS) return `is left out: there are ${MAX_PORTS} already`;
  ports.push(port);
  return undefined;
}

/** Whether two ports are one: the same number of the same protocol. */
export function isSamePort(
  a: Pick<ImportedPort, 'port' | 'protocol'>,
  b: Pick<ImportedPort, 'port' | 'protocol'>,
): boolean {
  return a.port === b.port && a.protocol === b.protocol;
}

/** A port's protocol, TCP where none is said; undefined for a word that is none. */
export function protocolOf({
  protocol,
}: Pick<ExportedPort, 'protocol'>): ImportedPort['protocol'] | undefined {
  return protocol === '' ? 'TCP' : PROTOCOLS.find((candidate) => candidate === protocol);
}

/** A port for people: `"http" 80/TCP`. */
export function describePort(port: Pick<ExportedPort, 'name' | 'port' | 'protocol'>): string {
  const number = `${port.port}/${port.protocol === '' ? 'TCP' : port.protocol}`;
  return port.name === '' ? `port ${number}` : `port ${JSON.stringify(port.name)} ${number}`;
}

/** In any order: what is there matters to a client, not in which order somebody wrote it down. */
function hasSamePorts(exported: readonly ExportedPort[], merged: readonly ImportedPort[]): boolean {
  if (exported.length !== merged.length) return false;
  return merged.every((port) =>
    exported.some(
      (other) =>
        other.name === port.name &&
        other.port === port.port &&
        protocolOf(other) === port.protocol &&
        (other.appProtocol ?? '') === (port.appProtocol ?? ''),
    ),
  );
}
