/** Options of machines outside Kubernetes, and of nodes that enrol: where and how they do, and for how long they are believed. */
import {
  integerParser,
  parseDuration,
  parseHostPort,
  parseText,
} from '../mesh/runtime/option-parsers.ts';
import { defineOptions, OptionsError, type OptionValues } from '../mesh/runtime/options.ts';
import { parseBoundedDuration } from './bounded-duration.ts';
import type { EnrollmentSettings } from './registry/enrollment-office.ts';

/** Options about machines. */
export const ENROLLMENT_OPTIONS = defineOptions({
  enrollmentAddress: {
    flag: '--enrollment-address HOST:PORT',
    env: 'ISTHMUS_ENROLLMENT_ADDRESS',
    parse: parseHostPort,
    help: 'where machines enrol that have a token and no certificate yet, and nodes of a cluster in Kubernetes; without it none can. Needs --enrollment-ca-cert-file and --enrollment-ca-key-file',
  },
  enrollmentCaCertFile: {
    flag: '--enrollment-ca-cert-file FILE',
    env: 'ISTHMUS_ENROLLMENT_CA_CERT_FILE',
    parse: parseText,
    help: 'authority that signs machines and nodes, made by `clustermesh pki enrollment`; it can sign neither servers nor administrators',
  },
  enrollmentCaKeyFile: {
    flag: '--enrollment-ca-key-file FILE',
    env: 'ISTHMUS_ENROLLMENT_CA_KEY_FILE',
    parse: parseText,
    help: 'its private key',
  },
  advertiseGate: {
    flag: '--advertise-gate HOST:PORT',
    env: 'ISTHMUS_ADVERTISE_GATE',
    parse: parseHostPort,
    repeatable: true,
    help: 'where machines are told to read this cluster; default: the address at which they enrol, with the port of --gate-address',
  },
  advertiseRegistry: {
    flag: '--advertise-registry HOST:PORT',
    env: 'ISTHMUS_ADVERTISE_REGISTRY',
    parse: parseHostPort,
    repeatable: true,
    help: 'where machines are told to announce themselves; default: the address at which they enrol, with the port of --registry-address',
  },
  machineCertificateTtl: {
    flag: '--machine-certificate-ttl DURATION',
    env: 'ISTHMUS_MACHINE_CERTIFICATE_TTL',
    default: '24h',
    parse: parseCertificateTtl,
    help: 'how long the certificate of a machine is valid, 15s to 2160h; it is renewed at two thirds of that. A machine that is off for longer has to enrol anew',
  },
  enrollmentServiceAccount: {
    flag: '--enrollment-service-account NAME',
    env: 'ISTHMUS_ENROLLMENT_SERVICE_ACCOUNT',
    default: 'clustermesh-agent',
    parse: parseServiceAccount,
    help: "in mode any-cni: service account of the agents, by whose projected tokens of audience isthmus-registry nodes enrol; NAME or NAMESPACE:NAME, without a namespace that of our own pod, or the context's",
  },
  nodeCertificateTtl: {
    flag: '--node-certificate-ttl DURATION',
    env: 'ISTHMUS_NODE_CERTIFICATE_TTL',
    default: '24h',
    parse: parseCertificateTtl,
    help: 'how long the certificate of a node that has enrolled is valid, 15s to 2160h; the node enrols anew at two thirds of that, by its token as it is then',
  },
  vmSessionGrace: {
    flag: '--vm-session-grace DURATION',
    env: 'ISTHMUS_VM_SESSION_GRACE',
    default: '60s',
    parse: parseDuration,
    help: 'how long the addresses of a machine stay published after its agent has gone',
  },
  tunnelPort: {
    flag: '--tunnel-port PORT',
    env: 'ISTHMUS_TUNNEL_PORT',
    default: '8472',
    parse: integerParser(1, 65_535),
    help: "UDP port of the agents' overlay, which machines are told",
  },
});

/** Enrollment as the options say; undefined: there is none. Throws OptionsError naming what is missing. */
export function enrollmentSettings(
  values: OptionValues<typeof ENROLLMENT_OPTIONS>,
): EnrollmentSettings | undefined {
  const { enrollmentAddress: address, enrollmentCaCertFile, enrollmentCaKeyFile } = values;
  if (address === undefined) {
    if (enrollmentCaCertFile === undefined && enrollmentCaKeyFile === undefined) return undefined;
    throw new OptionsError(
      'usage',
      '--enrollment-ca-cert-file and --enrollment-ca-key-file need --enrollment-address',
    );
  }
  if (enrollmentCaCertFile === undefined || enrollmentCaKeyFile === undefined) {
    throw new OptionsError(
      'usage',
      '--enrollment-address needs --enrollment-ca-cert-file and --enrollment-ca-key-file, the authority made by `clustermesh pki enrollment`',
    );
  }
  return {
    address,
    caCertFile: enrollmentCaCertFile,
    caKeyFile: enrollmentCaKeyFile,
    advertiseGate: values.advertiseGate,
    advertiseRegistry: values.advertiseRegistry,
    certificateTtlMs: values.machineCertificateTtl,
    nodeCertificateTtlMs: values.nodeCertificateTtl,
    serviceAccount: values.enrollmentServiceAccount,
    tunnelPort: values.tunnelPort,
  };
}

/** Names of service accounts and namespaces: DNS subdomains and labels. */
const SERVICE_ACCOUNT =
  /^(?:([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?):)?([a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)$/;

function parseServiceAccount(text: string): EnrollmentSettings['serviceAccount'] {
  const [, namespace, name] = SERVICE_ACCOUNT.exec(text) ?? [];
  if (name !== undefined) return { namespace, name };
  throw new Error(
    `cannot parse ${JSON.stringify(text)}: expected the name of a service account, or namespace:name`,
  );
}

/** Shorter ones would be renewed all the time, longer ones would be no better than keys for ever. */
function parseCertificateTtl(text: string): number {
  return parseBoundedDuration(text, { min: 15_000, max: 2160 * 3_600_000, words: '15s to 2160h' });
}
