/**
 * Everything by which machines and nodes come in: tokens, the authority, the listener, and what administrators and renewals need
 * of them.
 */
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import type { TrustFiles } from '../gate/trust.ts';
import { type Admin, createAdmin, type EnrollmentOffer } from './admin.ts';
import { type IssuingAuthority, openIssuingAuthority } from './certificate-authority.ts';
import { createEnrollment, type Enrollment, type EnrollmentStatus } from './enrollment.ts';
import { createEnrollmentLimits, type EnrollmentLimits } from './enrollment-limits.ts';
import { type EnrollmentListener, listenEnrollment } from './enrollment-listener.ts';
import type { MachineBook } from './machine-book.ts';
import {
  createNodeEnrollment,
  type NodeEnrollment,
  type NodeOffer,
  nodeEnrollmentMethod,
} from './node-enrollment.ts';
import {
  createPeerEnrollment,
  type EnrollingPeers,
  type PeerEnrollment,
} from './peer-enrollment.ts';
import { createRenewal, type Renewal } from './renewal.ts';
import { createTokenBook, type TokenBook } from './token-book.ts';

/** How machines enrol. */
export interface EnrollmentSettings {
  readonly address: HostPort;
  readonly caCertFile: string;
  readonly caKeyFile: string;
  /** Where machines are told to go; none: where they came in. */
  readonly advertiseGate: readonly HostPort[];
  readonly advertiseRegistry: readonly HostPort[];
  readonly certificateTtlMs: number;
  /** Of nodes. */
  readonly nodeCertificateTtlMs: number;
  /** Of the nodes' agents; without a namespace that of our own credentials. */
  readonly serviceAccount: { readonly namespace: string | undefined; readonly name: string };
  readonly tunnelPort: number;
}

/** Options of `openEnrollmentOffice`. */
export interface EnrollmentOfficeOptions {
  /** Undefined: no machine can enrol here, those that have may still be looked at. */
  readonly settings: EnrollmentSettings | undefined;
  /** Why this cluster takes no machines whatever the settings say. Default: it takes them. */
  readonly notOffered?: string | undefined;
  /** Machines whose labels are decided elsewhere, as `namespace/name`. */
  readonly labelledMachines: ReadonlySet<string>;
  /** Peers that enrol by their key. Default: none do. */
  readonly peers?: EnrollingPeers | undefined;
  /** How nodes enrol. */
  readonly nodes: NodeOffer;
  readonly store: KvStore;
  readonly machines: MachineBook;
  readonly files: Pick<TrustFiles, 'certFile' | 'keyFile' | 'ownCaFile'>;
  readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
  readonly maxConnectedClusters: MaxConnectedClusters;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

/** What else machines are told of. */
export interface OfficeSurroundings {
  readonly gate: HostPort;
  readonly registry: HostPort;
  readonly podNetworks: () => readonly string[];
}

/** How enrollment stands, for the status and metrics. */
export interface OfficeStatus extends EnrollmentStatus {
  readonly nodes: NodeEnrollment['status'];
  readonly peers: PeerEnrollment['status'] | undefined;
  readonly address: HostPort | undefined;
  readonly connections: number;
  readonly renewed: number;
  readonly renewalsRefused: number;
  /** When the authority ends that signs machines, milliseconds since 1970. */
  readonly authorityNotAfter: number | undefined;
}

/** The office. Disposing closes the listener. */
export interface EnrollmentOffice extends AsyncDisposable {
  readonly admin: Admin;
  /** Undefined: there is no authority to renew with. */
  readonly renewal: Renewal | undefined;
  /** Lets machines in, if they can enrol here. Throws RegistryError. */
  listen(surroundings: OfficeSurroundings): Promise<void>;
  /** Undefined: nobody can enrol here. */
  readonly status: OfficeStatus | undefined;
  /** Forgets old tokens until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

interface Desk {
  readonly settings: EnrollmentSettings;
  readonly authority: IssuingAuthority;
  readonly renewal: Renewal;
  readonly limits: EnrollmentLimits;
  readonly enrollment: Enrollment;
  readonly nodes: NodeEnrollment;
  readonly peers: PeerEnrollment | undefined;
}

const WITHOUT_ADDRESS =
  'machines cannot enrol here: start the apiserver with --enrollment-address, --enrollment-ca-cert-file and --enrollment-ca-key-file';

/** Opens it; nobody is let in before `listen`. Throws RegistryError `file` when the authority cannot be used. */
export async function openEnrollmentOffice(
  options: EnrollmentOfficeOptions,
): Promise<EnrollmentOffice> {
  const { settings, notOffered, store, machines, clock, logger, signal } = options;
  const tokens = createTokenBook({ store, clock, logger });
  const desk = settings === undefined ? undefined : await openDesk(settings, tokens, options);
  let listener: EnrollmentListener | undefined;

  const offer = (): EnrollmentOffer => {
    if (notOffered !== undefined) return { kind: 'not-offered', reason: notOffered };
    if (desk === undefined) return { kind: 'not-offered', reason: WITHOUT_ADDRESS };
    if (listener === undefined) {
      return {
        kind: 'not-offered',
        reason: 'machines cannot enrol yet: the apiserver is starting',
      };
    }
    const { address, anchor } = listener;
    const [registry] = desk.settings.advertiseRegistry;
    return {
      kind: 'offered',
      anchor,
      endpoint: (to) =>
        hostPortText({ host: registry?.host ?? reachable(address, to), port: address.port }),
    };
  };
  return {
    admin: createAdmin({ tokens, machines, labelled: options.labelledMachines, offer, logger }),
    renewal: desk?.renewal,
    async listen({ gate, registry, podNetworks }) {
      if (desk === undefined) return;
      const { advertiseGate, advertiseRegistry, tunnelPort, address } = desk.settings;
      const { name: clusterName, id: clusterId } = options.cluster;
      listener = await listenEnrollment({
        address,
        files: options.files,
        clusterName,
        enrollment: desk.enrollment,
        methods: [
          nodeEnrollmentMethod(desk.nodes, {
            ...options.cluster,
            max: options.maxConnectedClusters,
            gatePort: gate.port,
            registryPort: registry.port,
          }),
          ...(desk.peers === undefined ? [] : [desk.peers.method]),
        ],
        limits: desk.limits,
        facts: (to) => ({
          clusterName,
          clusterId,
          maxConnectedClusters: options.maxConnectedClusters,
          etcdEndpoints: placesFor(advertiseGate, gate, to).map((place) => `https://${place}`),
          registryEndpoints: placesFor(advertiseRegistry, registry, to),
          tunnelPort,
          podNetworks: podNetworks(),
        }),
        clock,
        logger,
        signal,
      });
    },
    get status() {
      if (desk === undefined) return undefined;
      const { state } = desk.authority;
      return {
        ...desk.enrollment.status,
        nodes: desk.nodes.status,
        peers: desk.peers?.status,
        address: listener?.address,
        connections: listener?.connections ?? 0,
        renewed: desk.renewal.counts.renewed,
        renewalsRefused: desk.renewal.counts.refused,
        authorityNotAfter: state.kind === 'usable' ? state.notAfter : undefined,
      };
    },
    run: (until) => tokens.run(until),
    async [Symbol.asyncDispose]() {
      await listener?.[Symbol.asyncDispose]();
      await desk?.authority[Symbol.asyncDispose]();
    },
  };
}

async function openDesk(
  settings: EnrollmentSettings,
  tokens: TokenBook,
  options: EnrollmentOfficeOptions,
): Promise<Desk> {
  const { machines, notOffered, clock, logger, signal } = options;
  const { caCertFile: certFile, caKeyFile: keyFile, certificateTtlMs: ttlMs } = settings;
  const { ownCaFile } = options.files;
  const authority = await openIssuingAuthority(
    { certFile, keyFile, ownCaFile },
    { ttlMs, clock, logger, signal },
  );
  const limits = createEnrollmentLimits({ clock });
  return {
    settings,
    authority,
    limits,
    renewal: createRenewal({ machines, authority, logger }),
    peers:
      options.peers === undefined
        ? undefined
        : createPeerEnrollment({
            peers: options.peers,
            cluster: { ...options.cluster, max: options.maxConnectedClusters },
            authority,
            limits,
            clock,
            logger,
          }),
    nodes: createNodeEnrollment({
      offer: options.nodes,
      authority,
      ttlMs: settings.nodeCertificateTtlMs,
      limits,
      clock,
      logger,
    }),
    enrollment: createEnrollment({
      tokens,
      machines,
      authority,
      limits,
      notOffered,
      clock,
      logger,
    }),
  };
}

/** Places as text: those that are advertised, else the one that a caller can reach who came in at `to`. */
function placesFor(
  advertised: readonly HostPort[],
  listening: HostPort,
  to: string,
): readonly string[] {
  if (advertised.length > 0) return advertised.map(hostPortText);
  return [hostPortText({ host: reachable(listening, to), port: listening.port })];
}

/** Where we listen at every address, the one that the caller has reached will do. */
function reachable({ host }: HostPort, to: string): string {
  const isAny = host === '::' || host === '0.0.0.0';
  return isAny ? to.replace(/^::ffff:/, '') : host;
}

function hostPortText({ host, port }: HostPort): string {
  return `${host.includes(':') ? `[${host}]` : host}:${port}`;
}
